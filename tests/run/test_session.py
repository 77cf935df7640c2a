from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import small_suite, write_suite

import rfbench.run.prepare
from rfbench.errors import SuiteError
from rfbench.models.identity import ModelIdentity
from rfbench.models.spec import ModelSpec
from rfbench.run.plan import Unit
from rfbench.run.prepare import Session, device_kind, prepare
from rfbench.run.suite.load import load_suite


def session(tmp_path: Path, tiny_llama: Path, model: dict[str, Any] | None = None, **changes: Any) -> Session:
    spec = {"spec": str(tiny_llama), "name": "tiny", **(model or {})}
    return prepare(small_suite(tmp_path, models=[spec], **changes), offline=True)


def test_the_header_holds_all_that_decides_the_results(tmp_path: Path, tiny_llama: Path) -> None:
    header = json.loads(json.dumps(session(tmp_path, tiny_llama).header(["run", "x"])))
    configuration = header["configuration"]
    assert configuration["suite"]["generation"]["max_new_tokens"] == 6
    assert configuration["suite"]["seeds"] == [0]
    assert configuration["data"]["harmful"]["n"] == 5
    assert len(configuration["data"]["harmful"]["sha256"]) == 64
    assert set(configuration["models"]) == {"always-flag", "never-flag", "tiny"}
    for name in ("weights_sha256", "tokenizer_sha256", "template_sha256", "config_sha256"):
        assert len(configuration["models"]["tiny"][name]) == 64
    assert configuration["models"]["tiny"]["device"] in ("cpu", "cuda")
    assert set(configuration["versions"]) == {"torch", "transformers", "tokenizers", "peft", "rfbench"}
    assert header["versions"]["python"]
    assert header["argv"] == ["run", "x"]
    assert "git_commit" in header
    assert len(header["plan"]) == 3 * 2 * 2 * 3


def test_the_same_configuration_finds_its_folder_again(tmp_path: Path, tiny_llama: Path) -> None:
    one, other = (session(tmp_path, tiny_llama).default_folder for _ in range(2))
    assert one == other
    assert one.parent == Path("results/small")


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},
        {"canary": {"min_harmful": 0.1}},
        {"model": {"flag": "none"}},
        {"generation": {"max_new_tokens": 5}},
    ],
    ids=str,
)
def test_another_configuration_gets_another_folder(tmp_path: Path, tiny_llama: Path, changes: dict[str, Any]) -> None:
    assert session(tmp_path, tiny_llama, **changes).default_folder != session(tmp_path, tiny_llama).default_folder


def test_the_gate_may_change_without_a_new_folder(tmp_path: Path, tiny_llama: Path) -> None:
    gated = session(tmp_path, tiny_llama, gate=[{"metric": "fpr", "max": 0.1}])
    assert gated.default_folder == session(tmp_path, tiny_llama).default_folder
    assert gated.header()["gate"] == [{"metric": "fpr", "where": {}, "max": 0.1, "end": "value"}]


def test_workers_on_two_devices_of_a_kind_share_a_run(tmp_path: Path, tiny_llama: Path) -> None:
    one, other = (session(tmp_path, tiny_llama, {"device": f"cuda:{i}"}) for i in (0, 1))
    assert one.configuration == other.configuration
    assert [u.key for u in one.units] == [u.key for u in other.units]
    assert [u.model.device for u in one.units][-1] == "cuda:0"
    cpu = session(tmp_path, tiny_llama, {"device": "cpu"})
    assert not {u.key for u in cpu.units if u.model.label == "tiny"} & {u.key for u in one.units}


def test_kinds_of_device() -> None:
    assert device_kind(ModelSpec(spec="x/y", device="cuda:3")) == "cuda"
    assert device_kind(ModelSpec(spec="always-flag", backend="control")) == "none"


def test_other_weights_are_another_run(tmp_path: Path, tiny_model: Any) -> None:
    one, other = (session(tmp_path, tiny_model(seed=seed)) for seed in (0, 1))
    assert one.configuration["models"]["tiny"] != other.configuration["models"]["tiny"]
    assert not {u.key for u in one.units[-12:]} & {u.key for u in other.units[-12:]}


def test_a_hub_model_is_loaded_at_the_commit_that_was_keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfbench.run.prepare, "identify", lambda spec, offline: ModelIdentity(revision="a" * 40))
    units = prepare(load_suite(str(write_suite(tmp_path)), models=["owner/name"])).units
    assert {u.model.revision for u in units if u.model.label == "owner/name"} == {"a" * 40}


def test_limit_is_part_of_the_configuration(tmp_path: Path, tiny_llama: Path) -> None:
    suite = small_suite(tmp_path, models=[str(tiny_llama)])
    limited = prepare(suite, limit=2, offline=True)
    assert limited.configuration["limit"] == 2
    assert limited.configuration["data"]["benign"]["n"] == 2
    assert limited.default_folder != prepare(suite, offline=True).default_folder


def test_several_greedy_answers_are_warned_of(
    tmp_path: Path, tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session(tmp_path, tiny_llama, generation={"n_samples": 2, "temperature": 1.0})
    assert "greedy" not in caplog.text
    session(tmp_path, tiny_llama, generation={"n_samples": 2})
    assert "generation: 2 greedy answers are one and the same" in caplog.text


def test_the_models_of_an_attack_are_part_of_its_work(
    tmp_path: Path, tiny_model: Callable[..., Path], tiny_llama: Path
) -> None:
    surrogate = tmp_path / "surrogate"

    def plan(seed: int) -> tuple[dict[str, str], dict[str, Any]]:
        shutil.rmtree(surrogate, ignore_errors=True)
        shutil.copytree(tiny_model(seed=seed), surrogate)
        attacks = ["direct", {"name": "gcg", "surrogates": [str(surrogate)]}]
        made = session(tmp_path, tiny_llama, attacks=attacks)
        configuration = made.header([])["configuration"]
        return {unit.label: unit.key for unit in made.work if isinstance(unit, Unit)}, configuration

    (before, one), (again, _), (after, other) = plan(1), plan(1), plan(2)
    assert before == again
    assert {label for label in before if before[label] != after[label]} == {k for k in before if " / gcg / " in k}
    assert one["further_models"].keys() == other["further_models"].keys() == {str(surrogate)}
    assert one["further_models"] != other["further_models"]


@pytest.mark.parametrize("fields", [{"surrogates": ["./dratf"]}, {"ranking": "draft", "draft": "./dratf"}], ids=str)
def test_a_model_of_an_attack_that_is_not_there_is_found_with_the_suite(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(SuiteError, match=r"attacks\[0\]: \./dratf: .*does not exist"):
        small_suite(tmp_path, attacks=[{"name": "gcg", **fields}])
