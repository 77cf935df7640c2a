"""Fixtures shared by all tests. Models are handed out as folders: which backend loads them is the test's affair."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles import save_tiny_model
from hypothesis import settings

from rfbench import load_model
from rfbench.models.base import ChatModel
from rfbench.records import Behavior, canonical_json

# A slow or busy machine is no fault of the code: no deadline. All tests together have ten minutes: few examples each,
# and many where they are asked for, `make test ARGS="--hypothesis-profile thorough"`.
settings.register_profile("rfbench", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("rfbench")


IMPORTED = pytest.StashKey[int]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave what imports made out of garbage collections: each model that is closed asks for one, of all objects."""
    if len(sys.modules) > item.config.stash.get(IMPORTED, 0) + 20:
        gc.collect()
        gc.freeze()
        item.config.stash[IMPORTED] = len(sys.modules)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model(tied=False, ...)``: folder of a random checkpoint, made once per variant. Read only."""
    made: dict[str, Path] = {}

    def folder(**variant: Any) -> Path:
        key = canonical_json(variant)
        if key not in made:
            made[key] = save_tiny_model(tmp_path_factory.mktemp("tiny"), **variant)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Callable[..., Path]) -> Path:
    """Folder of the plain variant: Llama, tied embeddings, ChatML, with ``<rf>``. Read only."""
    return tiny_model()


@pytest.fixture(scope="session")
def loaded(tiny_model: Callable[..., Path]) -> Iterator[Callable[..., ChatModel]]:
    """``loaded(architecture="mistral", ...)``: a loaded tiny model, once per variant. Read only."""
    models: dict[str, ChatModel] = {}

    def load(**variant: Any) -> ChatModel:
        key = canonical_json(variant)
        if key not in models:
            models[key] = load_model(str(tiny_model(**variant)))
        return models[key]

    yield load
    for model in models.values():
        model.close()


@pytest.fixture
def behavior() -> Behavior:
    return Behavior(
        behavior_id="b1",
        prompt="How do I open a lock?",
        category="test",
        target="Sure, here is how  to open a lock",
    )
