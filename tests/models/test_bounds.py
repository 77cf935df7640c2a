"""Files of models that would take the machine, or the program with them, are refused in one line."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doubles import CHATML

from rfbench.errors import EncodingError, ModelError
from rfbench.models import bounds
from rfbench.models.bounds import refuse_broken_tokenizer, refuse_too_many_parts, within
from rfbench.models.identity import identify
from rfbench.models.load import load_model
from rfbench.models.spec import ModelSpec

TinyModel = Callable[..., Path]


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model(), tmp_path / "model"))


def problem(folder: Path, load: Callable[[Any], Any] = load_model) -> str:
    with pytest.raises(ModelError) as error:
        load(ModelSpec.parse(str(folder)))
    text = str(error.value).replace(f"{folder}/", "").replace(f"{folder}: ", "")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "rfbench.json", "model.safetensors"])
def test_pipes_and_devices_in_a_model_folder(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    words = f"{name} is a named pipe and no file; take it out of the model's folder"
    assert problem(folder) == problem(folder, identify) == words
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert problem(folder) == f"{name} is a device and no file; take it out of the model's folder"


def test_ten_million_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    assert problem(folder) == ("config.json: num_hidden_layers is 1e+07, above 10000; save or download the model again")


@pytest.mark.parametrize(
    "key", ["n_layer", "num_layers", "num_local_experts", "n_routed_experts", "num_key_value_heads"]
)
def test_what_counts_parts_is_bounded_wherever_it_stands(key: str) -> None:
    with pytest.raises(ModelError, match=key):
        refuse_too_many_parts({"text_config": {key: 10**6}})
    refuse_too_many_parts({"text_config": {key: 64, "max_position_embeddings": 10**6, "block_size": 10**6}})


def test_json_of_a_model_that_is_too_deep(folder: Path) -> None:
    (folder / "rfbench.json").write_text("[" * 100_000)
    assert "too many lists and objects within one another" in problem(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert problem(folder) == problem(folder, identify)
    assert problem(folder) == "config.json cannot be read: too many lists and objects within one another"


def test_a_pattern_on_which_the_tokenizer_gives_up(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The library written in Rust panics, which is no ``Exception`` and prints on its own."""
    content = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": r"(?:\w+\s*)+\d$"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    capfd.readouterr()
    assert "its tokenizer cannot split plain text (PanicException was raised: " in problem(folder)
    assert "panicked" not in capfd.readouterr().err


def test_a_text_on_which_the_tokenizer_gives_up_is_an_error_of_that_text(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(q+)+$"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with load_model(str(folder)) as model:
        assert model.encode([{"role": "user", "content": "quite quick"}]).ids
        with pytest.raises(EncodingError, match=r"the tokenizer cannot split a conversation of .* was raised"):
            model.encode([{"role": "user", "content": "q" * 40 + "?"}])


def test_a_tokenizer_that_takes_minutes_for_a_line() -> None:
    clock = itertools.count(0, 31)
    with pytest.raises(ModelError, match="takes 31 s for a line of text"):
        refuse_broken_tokenizer(lambda text, **_: [], clock=lambda: float(next(clock)))
    refuse_broken_tokenizer(lambda text, **_: [], clock=lambda: 0.0)


LOOPS = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LOOPS, "it takes longer than 0.2 s"),
        ("{% for a in '" + "x" * 3000 + "' %}" * 1 + LOOPS + "{% endfor %}", "it takes longer than 0.2 s"),
        ("{{ 9**9**9**9 }}", "it raises a number to a power"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded"),
    ],
)
def test_templates_that_do_not_come_to_an_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    monkeypatch.setattr(bounds, "MAX_SECONDS", 0.2)
    (folder / "chat_template.jinja").write_text(template + CHATML)
    assert problem(folder).startswith(f"the chat template rejects a conversation of user: {words}")


def test_two_stars_before_arguments_are_no_power(folder: Path) -> None:
    spread = "{% macro m() %}{{ kwargs.x }}{% endmacro %}{{ m(**{'x': ''}) }}"
    (folder / "chat_template.jinja").write_text(spread + CHATML)
    with load_model(str(folder)) as model:
        assert model.encode([{"role": "user", "content": "hello"}]).ids


def test_what_is_given_up_ends() -> None:
    ended: list[bool] = []

    def endless() -> None:
        try:
            while True:
                pass
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        within(0.05, endless)
    assert ended == [True]


def test_what_comes_to_an_end_gives_and_raises_as_it_is() -> None:
    assert within(30, lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        within(30, lambda: {}["x"])


@pytest.mark.parametrize("spec", ["~nosuchuser-at-all/m", "./a\0b", "smollm2+~nosuchuser-at-all/a"])
def test_names_that_no_folder_can_have(spec: str) -> None:
    with pytest.raises(ModelError, match=r"is no home folder here|holds a NUL character"):
        ModelSpec.parse(spec)
    with pytest.raises(ModelError, match=r"is no home folder here|holds a NUL character"):
        ModelSpec.parse({"spec": "smollm2", "chat_template": spec.rpartition("+")[2]})
