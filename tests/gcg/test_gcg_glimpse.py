"""The model as its own draft, against the plain computation with keys and values put in place by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chats import INITIAL, TEMPLATE
from transformers import DynamicCache

from rfbench.errors import AttackError
from rfbench.gcg import glimpse
from rfbench.gcg.evaluator import Evaluator
from rfbench.gcg.glimpse import Glimpse
from rfbench.gcg.layout import Layout, lay_out
from rfbench.gcg.objectives import cross_entropy
from rfbench.models.base import ChatModel
from rfbench.records import Behavior

FULL: list[dict[str, Any]] = [{}, {"tied": False, "style": "llama3"}]


def laid_out(model: Any, behavior: Behavior) -> Layout:
    return lay_out(model, TEMPLATE, behavior, INITIAL, behavior.target)


def with_stale_keys(model: Any, layout: Layout, candidate: np.ndarray, n_target: int) -> float:
    """Loss of the first target tokens; unchanged suffix tokens keep the keys and values of the current suffix."""
    start, current = len(layout.before), list(layout.suffix)
    held = DynamicCache()
    with torch.no_grad():
        model.module(input_ids=torch.tensor([[*layout.before, *current]]), past_key_values=held)
        for place in np.flatnonzero(candidate != np.array(current)).tolist():
            at = start + place
            past = DynamicCache()
            for i, layer in enumerate(held.layers):
                past.update(layer.keys[:, :, :at].clone(), layer.values[:, :, :at].clone(), i)
            model.module(input_ids=torch.tensor([[int(candidate[place])]]), past_key_values=past)
            for mine, theirs in zip(held.layers, past.layers, strict=True):
                mine.keys[:, :, at], mine.values[:, :, at] = theirs.keys[:, :, at], theirs.values[:, :, at]
        rest = [*layout.after, *layout.target[: n_target - 1]]
        logits = model.module(input_ids=torch.tensor([rest]), past_key_values=held).logits[:, -n_target:]
    return float(cross_entropy(logits, torch.tensor([layout.target[:n_target]])).item())


def changes(layout: Layout, *places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that differ from the current suffix in the places named for each."""
    current = np.array(layout.suffix)
    candidates = np.tile(current, (len(places), 1))
    for i, where in enumerate(places):
        candidates[i, where] += 1 + i
    return candidates, current


@pytest.mark.parametrize("variant", FULL)
@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("first", [1, 3, None])
def test_unchanged_tokens_keep_their_keys_and_values(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any], batch: int, first: int | None
) -> None:
    model: Any = loaded(**variant)
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [0, 3], [], [5], [1, 4, 5])
    scores = Glimpse(Evaluator(model.module, cross_entropy, batch=batch), first).score(layout, candidates, current)
    n_target = first or len(layout.target)
    by_hand = [with_stale_keys(model, layout, candidate, n_target) for candidate in candidates]
    np.testing.assert_allclose(scores.losses, by_hand, atol=1e-4)


@pytest.mark.parametrize("variant", FULL)
def test_what_nothing_stands_behind_is_seen_as_it_is(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any]
) -> None:
    model: Any = loaded(**variant)
    layout = laid_out(model, behavior)
    last = len(layout.suffix) - 1
    candidates, current = changes(layout, [], [last], [last])
    exact = Evaluator(model.module, cross_entropy)
    short = replace(layout, target=layout.target[:2])
    glimpsed = Glimpse(exact, 2).score(layout, candidates, current)
    np.testing.assert_allclose(glimpsed.losses, exact.score(short, candidates, current).losses, atol=1e-4)
    # Without a template behind the suffix its last token is computed, not held.
    bare = replace(layout, after=())
    glimpsed = Glimpse(exact, 2).score(bare, candidates, current)
    want = exact.score(replace(bare, target=layout.target[:2]), candidates, current).losses
    np.testing.assert_allclose(glimpsed.losses, want, atol=1e-4)


def test_it_costs_new_tokens_template_and_the_beginning_of_the_target(
    loaded: Callable[..., ChatModel], behavior: Behavior
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [3], [4])
    exact = Evaluator(model.module, cross_entropy)
    exact.gradients([(layout, layout.suffix)])  # as every step begins: what stands before the suffix is there
    scores = Glimpse(exact, 2).score(layout, candidates, current)
    held, each = len(layout.suffix), 1 + len(layout.after) + 1
    assert scores.flops == exact.costs.forward(held + 3 * each, 3 * 2)
    assert exact.score(layout, candidates, current).flops > 1.5 * scores.flops


def test_who_sees_whom_by_hand() -> None:
    # Suffix at 1 and 2 behind one token; row 0 replaces place 0 of it, row 1 nothing. Then one more token, at 3.
    changed, new = glimpse._new_tokens([np.array([9, 6]), np.array([5, 6])], np.array([5, 6]))
    assert changed.tolist() == [[0], [-1]]
    assert new.tolist() == [[9], [0]]
    mask, positions = glimpse._who_sees_whom(changed, 1, 3, 2)
    assert positions.tolist() == [[1, 3], [0, 3]]
    # Columns: the three held tokens, the new one, the rest. The new token sees what stands before its place.
    assert mask[0].int().tolist() == [[1, 0, 0, 1, 0], [1, 0, 1, 1, 1]]
    # A filling sees itself (and harmlessly the first token), and is seen by none.
    assert mask[1, 0, 3]
    assert mask[1, 1].int().tolist() == [1, 1, 1, 0, 1]


def test_models_that_it_cannot_read_are_named(
    loaded: Callable[..., ChatModel], behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed: Any = loaded(architecture="mistral")
    layout = laid_out(windowed, behavior)
    candidates, current = changes(layout, [1])
    with pytest.raises(AttackError, match="16 tokens that attention reaches; take draft int8"):
        Glimpse(Evaluator(windowed.module, cross_entropy), 2).score(layout, candidates, current)
    kinds = ["linear_attention", "linear_attention"]
    monkeypatch.setattr(windowed.module.config, "layer_types", kinds, raising=False)
    with pytest.raises(AttackError, match="keys and values by position; take draft int8"):
        Glimpse(Evaluator(windowed.module, cross_entropy), 2)
