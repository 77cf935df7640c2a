"""Loaded tiny models and laid-out chats for the tests of the GCG engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chats import INITIAL, TEMPLATE

from rfbench import load_model
from rfbench.attacks.suffix.layout import Layout, lay_out
from rfbench.models.base import ChatModel
from rfbench.records import Behavior, canonical_json


@pytest.fixture(scope="session")
def loaded(tiny_model: Callable[..., Path]) -> Iterator[Callable[..., ChatModel]]:
    """``loaded(architecture="mistral", ...)``: a loaded tiny model, once per variant. Read only."""
    models: dict[str, ChatModel] = {}

    def load(**variant: object) -> ChatModel:
        key = canonical_json(variant)
        if key not in models:
            models[key] = load_model(str(tiny_model(**variant)))
        return models[key]

    yield load
    for model in models.values():
        model.close()


@pytest.fixture
def layout(loaded: Callable[..., ChatModel], behavior: Behavior) -> Layout:
    """The chat of the lock behavior with eight suffix tokens and a target of several."""
    return lay_out(loaded(), TEMPLATE, behavior, INITIAL, behavior.target)
