"""What is said of inputs that cannot be used: true, in whole sentences, with a remedy that the command has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import environment, write_suite

from rfbench.cli import main
from rfbench.errors import EXIT_OK, EXIT_USAGE, ConfigError
from rfbench.files.text import one_line
from rfbench.models.remedies import as_options, on_the_model

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model folder that may be broken."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def configure(folder: Path, **facts: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"no weights")


def sharded(folder: Path) -> None:
    without_weights(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def encoder_decoder(folder: Path) -> None:
    configure(folder, model_type="bart", architectures=["BartForConditionalGeneration"], is_encoder_decoder=True)


def of_another_kind(folder: Path) -> None:
    configure(folder, model_type="vit", architectures=["ViTForImageClassification"])


def quantised(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"})


def with_own_code(folder: Path) -> None:
    configure(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})


def without_tokenizer(folder: Path) -> None:
    for path in (*folder.glob("tokenizer*"), *folder.glob("chat_template*")):
        path.unlink()


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def with_broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in %}")


BROKEN: dict[Callable[[Path], None], str] = {
    without_weights: "holds no weights (model.safetensors, model.safetensors.index.json)",
    pickled: "if you trust them, set {allow_pickle=true}",
    sharded: "lacks 1 of 1 weight files, the first is model-00001-of-00002.safetensors",
    cut: "a weight file is damaged",
    encoder_decoder: "is an encoder-decoder model (BartForConditionalGeneration)",
    of_another_kind: "is a classifier (ViTForImageClassification)",
    quantised: "(a quantised model needs its own package installed)",
    with_own_code: "it brings its own code; set {trust_remote_code=true} if you have read that code",
    without_tokenizer: "tokenizer",
    without_template: "set {chat_template=plain}, or give a template string or file there",
    with_broken_template: "set {chat_template=...}, or another {system=...}",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_validate_finds_what_shows_without_weights_and_check_says_the_same(
    say: Say, folder: Path, tmp_path: Path, broken: Callable[[Path], None]
) -> None:
    broken(folder)
    suite = write_suite(tmp_path / "suite")
    code, out, err = say("validate", suite, "--model", folder)
    assert (code, out) == (EXIT_USAGE, "")
    assert err.startswith("--model: models[0]: "), "the suite file is not to blame"
    clue = BROKEN[broken]
    assert clue.replace("{", "`--set models.0.").replace("}", "`") in err
    code, out, err_of_check = say("check", folder)
    assert (code, out, err_of_check.count("\n")) == (EXIT_USAGE, "", 1)
    assert clue.replace("{", "`--set ").replace("}", "`") in err_of_check
    for text in (err, err_of_check):
        assert ("allow_pickle" in text) == (broken is pickled)
        assert not text.rstrip().endswith((",", ":")), "the sentence goes on"


def test_what_a_suite_names_is_blamed_on_the_suite(say: Say, folder: Path, tmp_path: Path) -> None:
    without_template(folder)
    suite = write_suite(tmp_path / "suite", models=[str(folder)])
    code, _, err = say("validate", suite)
    assert code == EXIT_USAGE
    assert err.startswith(f"{suite}: models[0]: ")
    assert "set `chat_template: plain` on the model" in err
    suite = write_suite(tmp_path / "suite", models=[{"spec": str(folder), "chat_template": "plain"}])
    assert say("validate", suite)[0] == EXIT_OK


def reached(*_: object) -> None:
    raise ConfigError("reached")


@pytest.mark.parametrize("command", ["check", "export", "train"])
def test_the_remedy_that_is_named_works(
    say: Say, folder: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_template(folder)
    prefix = "base." if command == "train" else ""
    arguments: dict[str, list[object]] = {
        "check": ["check", folder, "--set", "flag=none"],
        "export": ["export", folder, "--out", tmp_path / "out"],
        "train": ["train", "refusal", "--base", folder, "--out", tmp_path / "out", "--set", "base.flag=none"],
    }
    # A training is asked until it has loaded its base.
    monkeypatch.setattr("rfbench.train.base.check_base", reached)
    code, _, err = say(*arguments[command])
    assert code == EXIT_USAGE
    assert f"set `--set {prefix}chat_template=plain`" in err
    code, _, err = say(*arguments[command], "--set", f"{prefix}chat_template=plain")
    assert code == (EXIT_USAGE if command == "train" else EXIT_OK)
    assert err.endswith("rfbench: reached\n") == (command == "train")
    code, _, err = say(*arguments[command], "--set", f"{prefix}chat_templat=plain")
    assert (code, err) == (EXIT_USAGE, f"{folder}: chat_templat: unknown; did you mean chat_template?\n")


def test_a_flag_and_a_device_that_are_not_there(say: Say, tiny_llama: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite", models=[str(tiny_llama)])
    code, _, err = say("validate", suite, "--flag", "<absent>", "--device", "warp:9")
    assert code == EXIT_USAGE
    of_device, of_flag = err.splitlines()
    assert "device 'warp:9' cannot be used here: " in of_device
    assert of_device.endswith("set `device: cpu` on the model, or another that is there")
    assert "flag '<absent>' must be exactly one id of the vocabulary" in of_flag


def test_data_are_read(say: Say, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite")
    (suite.parent / "harmful.jsonl").write_text('{"prompt": "a", "is_harmful": true}\n{"prompt": ')
    (suite.parent / "benign.jsonl").write_text('{"request": "a", "is_harmful": false}\n')
    code, _, err = say("validate", suite)
    assert code == EXIT_USAGE
    first, second = err.splitlines()
    assert first.startswith(f"{suite}: datasets[0]: {suite.parent / 'harmful.jsonl'}: row 2 (line 2): malformed JSON")
    assert second.startswith(f"{suite}: datasets[1]: {suite.parent / 'benign.jsonl'}: no column 'prompt'")


@pytest.mark.parametrize("name", ["model.gguf", "model.bin"])
def test_a_file_in_place_of_a_folder(say: Say, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    suite, path = write_suite(tmp_path / "suite"), tmp_path / name
    made = ", from which the GGUF was made," if name.endswith("gguf") else ""
    problem = f"model '{path}' is a file; name the folder{made} that holds config and safetensors"
    assert say("run", suite, "--model", path) == (EXIT_USAGE, "", f"--model: models[0]: {problem}\n")
    for command in (
        ["check", path],
        ["export", path, "--out", "out"],
        ["train", "refusal", "--base", path, "--out", "o"],
    ):
        assert say(*command) == (EXIT_USAGE, "", f"rfbench: {problem}\n")


def test_no_table_of_controls_where_no_model_was_measured(say: Say, folder: Path, tmp_path: Path) -> None:
    cut(folder)
    suite = write_suite(tmp_path / "suite")
    code, out, err = say("run", suite, "--model", folder, "--out", "run")
    assert (code, out) == (EXIT_USAGE, "")
    assert "a weight file is damaged" in err.splitlines()[-1]
    assert "always-flag" in Path("run/summary.md").read_text()


def test_validate_imports_nothing_heavy_for_what_is_shipped() -> None:
    program = "import sys; from rfbench.cli import main; main(['validate', 'ci']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (EXIT_OK, "")


def test_one_line_ends_where_a_sentence_does() -> None:
    assert one_line(" a\nb  c ") == "a b c"
    assert one_line("One. Two. " + "x" * 300) == "One. Two."
    assert one_line("word " * 100, limit=20) == "word word word word ..."
    assert one_line("x" * 40, limit=20) == "x" * 20 + " ..."
    assert one_line("") == ""


def test_a_setting_as_an_option() -> None:
    message = f"set {on_the_model('dtype', 'float32')}, or {on_the_model('system')}; `not: this`"
    assert message == "set `dtype: float32` on the model, or `system:` on the model; `not: this`"
    assert as_options(message, "base.") == "set `--set base.dtype=float32`, or `--set base.system=...`; `not: this`"
    assert as_options(as_options(message, ""), "x.") == as_options(message, "")
