"""Whatever a suite, a data file or an adapter's metadata hold: they are read, or refused in lines for users."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import VALUES, as_json, damaged, exchanged, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from rfbench.data.answers import ConversationSpec, load_conversations
from rfbench.data.catalog import DatasetSpec
from rfbench.data.load import load_behaviors
from rfbench.errors import EXIT_USAGE, RfbenchError, describe
from rfbench.models.flag import read_flag_file
from rfbench.models.folders import is_quantised, weight_files
from rfbench.models.hf.adapter import _named_tokens
from rfbench.models.identity import identify
from rfbench.models.spec import ModelSpec
from rfbench.models.templates import unknown_template
from rfbench.records import Behavior
from rfbench.run.overlap import _trained_on
from rfbench.run.suite.load import load_suite
from rfbench.train.recipe import load_recipe

MAX_LINES = 60


def refusal(read: Callable[[], object]) -> None:
    """Read; what is raised is one of the project's errors, for bad input, with something to say."""
    error: RfbenchError | None = None
    try:
        read()
    except RfbenchError as raised:
        error = raised
    if error is not None:
        assert error.exit_code == EXIT_USAGE
        assert 1 <= len(describe(error).strip().splitlines()) <= MAX_LINES


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


SUITE: dict[str, Any] = {
    "name": "fuzzed",
    "description": "d",
    "models": ["smollm2", {"spec": "smollm2+redflag", "name": "m", "flag": "<rf>", "template_args": {"a": 1}}],
    "datasets": ["core/harmful", {"path": "x.csv", "columns": {"prompt": "p"}, "where": {"a": ["b"]}, "limit": 3}],
    "attacks": [
        "direct",
        {"name": "prefill", "label": "p", "words": 3},
        {"name": "gcg", "n_steps": 4, "draft": {"model": "glimpse"}},
    ],
    "measures": [{"name": "utility"}],
    "judges": ["refusal_rule"],
    "generation": {"max_new_tokens": 8, "temperature": 0.5, "n_samples": 2, "on_flag": "stop"},
    "seeds": [0, 1],
    "gate": [{"metric": "dsr", "where": {"model": "m"}, "min": 0.5}, {"metric": "false_alarm", "max": 0.1}],
    "canary": {"min_harmful": 0.5},
    "chunk_size": 4,
}
SUITE_TEXT = yaml.safe_dump(SUITE).encode()


@fuzzed
@given(st.one_of(exchanged(SUITE).map(as_json), damaged(SUITE_TEXT)))
def test_suites(home: Path, content: bytes) -> None:
    path = home / "suite.yaml"
    path.write_bytes(content)
    refusal(lambda: load_suite(str(path)))


@fuzzed
@given(st.text(max_size=12), VALUES)
def test_settings_of_a_suite(key: str, value: Any) -> None:
    refusal(lambda: load_suite("quick", overrides=[f"{key}={json.dumps(value)}"]))


RECIPE: dict[str, Any] = {
    "extends": "redflag",
    "description": "d",
    "data": {"harmful": [{"name": "train/harmful"}], "cells": {"rows": {"harmful/safe": 4}}},
    "optimiser": {"steps": 3},
    "seed": 1,
}


@fuzzed
@given(st.one_of(exchanged(RECIPE).map(as_json), damaged(yaml.safe_dump(RECIPE).encode())))
def test_recipes(home: Path, content: bytes) -> None:
    path = home / "recipe.yaml"
    path.write_bytes(content)
    refusal(lambda: load_recipe(str(path), []))


ROWS = [
    {
        "behavior_id": f"b{i}",
        "prompt": f"How, and {i}?",
        "category": "c",
        "target": "Sure",
        "is_harmful": bool(i % 2),
        "twin_id": f"b{i ^ 1}",
    }
    for i in range(3)
]
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a b c", "label": "harmful", "onset": 2}]
CHATS = [{"messages": TURNS, "id": f"m{i}", "request": "harmful", "group": "g"} for i in range(2)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in rows)


def table(rows: list[dict[str, Any]]) -> bytes:
    cells = [[f'"{value}"' for value in row.values()] for row in rows]
    return "".join(",".join(row) + "\n" for row in (list(rows[0]), *cells)).encode()


FILES = st.one_of(
    st.tuples(
        st.just("jsonl"),
        st.one_of(st.lists(exchanged(ROWS[1]), max_size=3).map(lambda rows: lines(rows)), damaged(lines(ROWS))),
    ),
    st.tuples(
        st.just("json"),
        st.one_of(exchanged(ROWS).map(as_json), exchanged({"rows": ROWS}).map(as_json), damaged(as_json(ROWS))),
    ),
    st.tuples(st.just("csv"), st.one_of(damaged(table(ROWS)), damaged(b"# note\n" + table(ROWS).replace(b",", b";")))),
)


def check_behaviors(behaviors: Iterable[Behavior]) -> None:
    for behavior in behaviors:
        f"{behavior.behavior_id}{behavior.request}{behavior.target}".encode()
        assert behavior.behavior_id.strip()
        assert behavior.request.strip()


@fuzzed
@given(FILES)
def test_data_files(home: Path, file: tuple[str, bytes]) -> None:
    path = home / f"data.{file[0]}"
    path.write_bytes(file[1])
    refusal(lambda: check_behaviors(load_behaviors(DatasetSpec(path=str(path)), offline=True)))


@fuzzed
@given(st.one_of(st.lists(exchanged(CHATS[0]), max_size=3).map(lambda rows: lines(rows)), damaged(lines(CHATS))))
def test_labelled_conversations(home: Path, content: bytes) -> None:
    path = home / "chats.jsonl"
    path.write_bytes(content)
    refusal(lambda: load_conversations(ConversationSpec(path=str(path)), offline=True))


ADAPTER: dict[str, Any] = {
    "adapter_config.json": {
        "peft_type": "LORA",
        "r": 8,
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [5]},
    },
    "rfbench.json": {
        "flag_token": "<rf>",
        "flag_id": 5,
        "calibration": {"flag_bias": 0.5},
        "recipe": {"description": "d", "data": {"harmful": [{"name": "train/harmful"}], "benign": []}},
    },
    "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ messages }}"}]},
    "config.json": {"model_type": "llama", "quantization_config": {"bits": 4}},
    "model.safetensors.index.json": {"weight_map": {"a": "adapter_model.safetensors"}},
}


@pytest.fixture(scope="module")
def adapter(home: Path) -> Path:
    folder = home / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


READERS: tuple[Callable[[Path], object], ...] = (
    lambda folder: read_flag_file(folder / "rfbench.json"),
    _named_tokens,
    is_quantised,
    lambda folder: weight_files(folder, allow_pickle=False),
    lambda folder: unknown_template("x", folder),
    lambda folder: identify(ModelSpec(spec=str(folder))),
    lambda folder: ModelSpec(spec=f"smollm2+{folder}").check(Path()),
    lambda folder: list(_trained_on(ModelSpec(spec=f"smollm2+{folder}"), warn=False)),
)


@fuzzed
@given(
    st.one_of(
        exchanged(ADAPTER)
        .filter(lambda files: isinstance(files, dict))
        .map(lambda files: {k: as_json(v) for k, v in files.items() if k in ADAPTER}),
        st.sampled_from(sorted(ADAPTER)).flatmap(
            lambda name: damaged(as_json(ADAPTER[name])).map(lambda content: {name: content})
        ),
    )
)
def test_metadata_of_adapters_and_models(adapter: Path, files: dict[str, bytes]) -> None:
    for name, sound in ADAPTER.items():
        content = files.get(name, as_json(sound))
        if not (adapter / name).is_file() or (adapter / name).read_bytes() != content:
            (adapter / name).write_bytes(content)
    for read in READERS:
        refusal(lambda read=read: read(adapter))  # type: ignore[misc]
