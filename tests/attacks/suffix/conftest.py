"""Loaded tiny models and laid-out chats for the tests of the GCG engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chats import INITIAL, TEMPLATE

from rfbench.attacks.suffix.layout import Layout, lay_out
from rfbench.models.base import ChatModel
from rfbench.records import Behavior


@pytest.fixture
def layout(loaded: Callable[..., ChatModel], behavior: Behavior) -> Layout:
    """The chat of the lock behavior with eight suffix tokens and a target of several."""
    return lay_out(loaded(), TEMPLATE, behavior, INITIAL, behavior.target)
