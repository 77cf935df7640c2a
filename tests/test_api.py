"""The names that README promises, used as README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import environment, write_suite

import rfbench
from rfbench import load_model, load_run, read_refusal, score_flags, summarize
from rfbench.cli import main
from rfbench.errors import ConfigError, ModelError
from rfbench.records import KEY_COLUMNS, Attempt


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("api")
    attacks = ["direct", {"name": "sampling", "temperature": [1.0], "n_samples": 2}]
    suite = write_suite(folder, models=[{"spec": str(tiny_llama), "name": "tiny"}], attacks=attacks, chunk_size=5)
    assert main(["run", str(suite), "--out", str(folder / "run"), "--offline"]) == 0
    return folder / "run"


def test_names() -> None:
    assert set(rfbench.__all__) == {
        "__version__",
        "load_model",
        "load_run",
        "read_refusal",
        "run_suite",
        "score_flags",
        "summarize",
    }
    assert dir(rfbench) == sorted(rfbench.__all__)
    for name in rfbench.__all__:
        assert getattr(rfbench, name)
    with pytest.raises(AttributeError, match="module 'rfbench' has no attribute 'nonsense'"):
        rfbench.nonsense  # noqa: B018


def test_importing_is_instant() -> None:
    program = "import rfbench, sys; assert not {'torch', 'pandas', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment())


def test_a_model_is_a_context_manager_that_generates(tiny_llama: Path) -> None:
    with load_model(str(tiny_llama)) as model:
        assert model.flag_id == model.tokenizer.convert_tokens_to_ids("<rf>")
        messages = [{"role": "user", "content": "How do I open a lock?"}]
        chat = model.encode(messages, "Sure")  # type: ignore[arg-type]
        assert model.tokenizer.decode(chat.ids[chat.span("prefill").start :]) == "Sure"
        attempts = [Attempt("b", messages=messages), Attempt("b", messages=messages, prefill="Sure", attempt_idx=1)]  # type: ignore[arg-type]
        completions = list(model.generate(attempts, max_new_tokens=4))
    assert [(c.behavior_id, c.attempt_idx, c.sample_idx) for c in completions] == [("b", 0, 0), ("b", 1, 0)]
    for completion in completions:
        assert completion.completion_ids.dtype == np.int32
        assert 1 <= len(completion.completion_ids) <= 4
        assert completion.flag_prob.shape == completion.completion_ids.shape


def test_the_flag_can_be_named_or_switched_off(tiny_llama: Path) -> None:
    with load_model(str(tiny_llama), flag="none") as model:
        assert model.flag_id is None
    with load_model({"spec": str(tiny_llama), "flag_bias": 2.0}, "<|im_start|>") as model:
        assert model.flag_id == model.tokenizer.convert_tokens_to_ids("<|im_start|>")
        assert model.flag_bias == 2.0


def test_bad_models_are_model_errors() -> None:
    with pytest.raises(ModelError):
        load_model("./nowhere/at/all", flag="none")
    with pytest.raises(ModelError, match="flagg"):
        load_model({"spec": "smollm2", "flagg": "x"})


def test_a_run_has_records_measures_and_provenance(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert run.complete
    assert not run.records.duplicated(list(KEY_COLUMNS)).any()
    assert run.provenance["configuration"]["suite"]["name"] == "small"
    assert run.provenance["loaded"]["tiny"]["flag_token"] == "<rf>"
    assert set(run.measures["model"]) == {"tiny"}
    with pytest.raises(ConfigError):
        load_run(run_folder / "parts")


def test_a_summary_is_tidy(run_folder: Path) -> None:
    summary = summarize(load_run(run_folder))
    assert summary.columns[:10].tolist() == [
        "model",
        "attack",
        "attack_label",
        "dataset",
        "metric",
        "value",
        "lo",
        "hi",
        "n",
        "n_unscored",
    ]
    assert summary.columns[10:].tolist() == [
        *("value_optimistic", "seeds_min", "seeds_max"),
        *("name", "parameter", "stage", "step"),
    ]
    rates = summary[summary["metric"] != "leak_median"]
    assert ((rates["lo"] <= rates["value"]) & (rates["value"] <= rates["hi"])).all()
    assert rates["value"].between(0, 1).all()
    assert set(summary["n"] + summary["n_unscored"]) == {5}


def test_the_scorers_read_what_the_run_stored(run_folder: Path) -> None:
    records = load_run(run_folder).records
    tiny = records[records["model"] == "tiny"]
    scores = score_flags(tiny["completion_ids"].tolist(), [int(tiny["flag_id"].iloc[0])])
    assert scores.flagged.tolist() == tiny["flagged"].tolist()
    assert scores.flag_pos.tolist() == tiny["flag_pos"].tolist()
    assert scores.n_flags.tolist() == tiny["n_flags"].tolist()


def test_flags_of_ragged_sequences() -> None:
    scores = score_flags([[5, 7, 7], [], [1]], [7])
    assert (scores.flagged.tolist(), scores.flag_pos.tolist(), scores.n_flags.tolist()) == (
        [True, False, False],
        [1, -1, -1],
        [2, 0, 0],
    )
    assert not score_flags([[1, 2]], []).flagged.any()


def test_refusals() -> None:
    found = read_refusal("I'm sorry, but I can't help with that.")
    assert (found.refused, found.partial) == (True, False)
    assert found.rule
    assert not read_refusal("Paris is the capital of France.", prompt="What is the capital?", prefill="Sure").refused


def test_attempts_have_defaults() -> None:
    attempt = Attempt("b", messages=[{"role": "user", "content": "x"}])
    assert (attempt.prefill, attempt.suffix, attempt.attempt_idx, attempt.final) == ("", "", 0, True)
    assert (attempt.temperature, attempt.n_samples) == (None, None)


def test_an_attempt_asks_for_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="n_samples is 0, must be at least 1"):
        Attempt("b", messages=[{"role": "user", "content": "x"}], n_samples=0)
