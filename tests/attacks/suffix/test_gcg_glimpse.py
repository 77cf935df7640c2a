"""The model as its own draft, against the plain computation with keys and values put in place by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chats import INITIAL, TEMPLATE
from transformers import DynamicCache

from rfbench.attacks.gcg import GCG
from rfbench.attacks.suffix import partial_draft
from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import Layout, lay_out
from rfbench.attacks.suffix.objectives import cross_entropy, flag_pressure
from rfbench.attacks.suffix.partial_draft import PartialDraft
from rfbench.models.base import ChatModel
from rfbench.models.hf.ways import Ways
from rfbench.records import Behavior

FULL: list[dict[str, Any]] = [{}, {"tied": False, "style": "llama3"}]


def laid_out(model: Any, behavior: Behavior) -> Layout:
    return lay_out(model, TEMPLATE, behavior, INITIAL, behavior.target)


def unlikely(model: Any, layout: Layout, n: int | None) -> list[int]:
    """The target tokens to which a cross-entropy is most sensitive: by the norm of softmax less one-hot."""
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([layout.fill(layout.suffix)])).logits[0]
    error = logits[-len(layout.target) - 1 : -1].softmax(dim=-1)
    error[torch.arange(len(layout.target)), list(layout.target)] -= 1
    return sorted(error.norm(dim=-1).argsort(descending=True)[:n].tolist())


def with_stale_keys(model: Any, layout: Layout, candidate: np.ndarray, wanted: list[int]) -> float:
    """Mean loss over the target, of which only the tokens ``wanted`` see the change.

    All but the new tokens and what predicts those keep the current keys and values, or their own current losses.
    """
    start, current = len(layout.before), np.array(layout.suffix)
    ids = layout.fill(candidate.tolist())
    first = len(ids) - len(layout.target) - 1
    held = DynamicCache()
    with torch.no_grad():
        now = model.module(input_ids=torch.tensor([layout.fill(current.tolist())[:-1]]), past_key_values=held).logits
        losses = [
            cross_entropy(now[:, [first + i]], torch.tensor([[token]])).item() for i, token in enumerate(layout.target)
        ]
        places = {*(start + np.flatnonzero(candidate != current)).tolist(), *(first + i for i in wanted)}
        for at in sorted(places):
            past = DynamicCache()
            for i, layer in enumerate(held.layers):
                past.update(layer.keys[:, :, :at].clone(), layer.values[:, :, :at].clone(), i)
            logits = model.module(input_ids=torch.tensor([[ids[at]]]), past_key_values=past).logits
            for mine, theirs in zip(held.layers, past.layers, strict=True):
                mine.keys[:, :, at], mine.values[:, :, at] = theirs.keys[:, :, at], theirs.values[:, :, at]
            if at - first in wanted:
                losses[at - first] = cross_entropy(logits, torch.tensor([[layout.target[at - first]]])).item()
    return float(np.mean(losses))


def changes(layout: Layout, *places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that differ from the current suffix in the places named for each."""
    current = np.array(layout.suffix)
    candidates = np.tile(current, (len(places), 1))
    for i, where in enumerate(places):
        candidates[i, where] += 1 + i
    return candidates, current


@pytest.mark.parametrize("variant", FULL)
@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("n_target", [1, 3, None])
def test_all_other_tokens_keep_their_keys_and_values(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any], batch: int, n_target: int | None
) -> None:
    model: Any = loaded(**variant)
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [0, 3], [], [5], [1, 4, 5])
    draft = PartialDraft(Evaluator(model.module, cross_entropy), n_target, batch=batch)
    scores = draft.score(layout, candidates, current)
    wanted = unlikely(model, layout, n_target)
    by_hand = [with_stale_keys(model, layout, candidate, wanted) for candidate in candidates]
    np.testing.assert_allclose(scores.losses, by_hand, atol=1e-4)


@pytest.mark.parametrize("n_target", [1, 4, None])
def test_without_a_template_the_last_suffix_token_predicts_and_is_computed_once(
    loaded: Callable[..., ChatModel], behavior: Behavior, n_target: int | None
) -> None:
    model: Any = loaded()
    layout = replace(laid_out(model, behavior), after=())
    last = len(layout.suffix) - 1
    candidates, current = changes(layout, [], [last], [0, last])
    scores = PartialDraft(Evaluator(model.module, cross_entropy), n_target).score(layout, candidates, current)
    wanted = unlikely(model, layout, n_target)
    by_hand = [with_stale_keys(model, layout, candidate, wanted) for candidate in candidates]
    np.testing.assert_allclose(scores.losses, by_hand, atol=1e-4)


def test_nothing_is_stale_where_all_that_follows_is_computed(
    loaded: Callable[..., ChatModel], behavior: Behavior
) -> None:
    model: Any = loaded()
    layout = replace(laid_out(model, behavior), after=())
    last = len(layout.suffix) - 1
    candidates, current = changes(layout, [], [last], [last])
    exact = Evaluator(model.module, cross_entropy)
    glimpsed = PartialDraft(exact).score(layout, candidates, current)
    np.testing.assert_allclose(glimpsed.losses, exact.score(layout, candidates, current).losses, atol=1e-4)


def test_a_target_token_weighs_what_the_loss_depends_on_it(
    loaded: Callable[..., ChatModel], behavior: Behavior
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)

    def only_third(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits[:, 2, 7]

    _, weights, _ = Evaluator(model.module, only_third).at_target(layout, layout.suffix)
    assert weights.nonzero().flatten().tolist() == [2]


def test_an_objective_reads_every_position_in_its_place(
    loaded: Callable[..., ChatModel], behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [0, 3], [])

    def of_the_first(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, targets) + 10 * flag_pressure(logits, 7, "first", 2)

    exact = Evaluator(model.module, of_the_first)
    now = exact.score(layout, current[None], current).losses[0]
    losses = PartialDraft(exact, 3).score(layout, candidates, current).losses
    # Of the three, the pressure reads those two that stand first in the target, not those that were looked at.
    assert losses[-1] == pytest.approx(now, abs=1e-4)
    assert np.abs(losses[:-1] - now).min() > 1e-3
    monkeypatch.setattr(partial_draft, "MOST_LOGITS", 1)  # one candidate at a time
    np.testing.assert_allclose(PartialDraft(exact, 3).score(layout, candidates, current).losses, losses, atol=1e-4)


@pytest.mark.parametrize("n_target", [2, None])
def test_nothing_depends_on_what_was_evaluated_before(
    loaded: Callable[..., ChatModel], behavior: Behavior, n_target: int | None
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [0, 3], [5])
    for scorer in (
        Evaluator(model.module, cross_entropy),
        PartialDraft(Evaluator(model.module, cross_entropy), n_target),
    ):
        first, again = (scorer.score(layout, candidates, current) for _ in range(2))
        assert first.flops == again.flops
        assert np.array_equal(first.losses, again.losses)


def test_large_chats_stand_in_small_batches(
    loaded: Callable[..., ChatModel], behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [3], [4], [5])
    sizes: list[int] = []
    share = Evaluator.share

    def watched(self: Evaluator, rows: Any, limit: int, n_root: int) -> Any:
        sizes.append(len(rows))
        return share(self, rows, limit, n_root)

    monkeypatch.setattr(Evaluator, "share", watched)
    draft = PartialDraft(Evaluator(model.module, cross_entropy), 2)
    draft.score(layout, candidates, current)
    assert max(sizes) == 4
    sizes.clear()
    monkeypatch.setattr(partial_draft, "rows_that_fit", lambda *_: 2)
    draft.score(layout, np.tile(candidates, (4, 1)), current)  # so many batches that a sizer would try larger ones
    assert max(sizes) == 2
    sizes.clear()
    monkeypatch.setattr(partial_draft, "rows_that_fit", lambda *_: 100)
    draft.score(layout, np.tile(candidates, (8, 1)), current)
    assert max(sizes) > 2


def test_it_costs_new_tokens_and_the_target_tokens_looked_at(
    loaded: Callable[..., ChatModel], behavior: Behavior
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    candidates, current = changes(layout, [2], [3], [4])
    exact = Evaluator(model.module, cross_entropy)
    exact.gradients([(layout, layout.suffix)])  # as every step begins: what stands before the suffix is there
    scores = PartialDraft(exact, 2).score(layout, candidates, current)
    n_target = len(layout.target)
    held = len(layout.suffix) + len(layout.after) + n_target - 1
    to_choose = exact.costs.forward(held, n_target)
    # The logits of the current suffix come from the last of the inputs: what stands before those is known afterwards.
    assert scores.flops == to_choose + exact.costs.forward(n_target + 3 * (1 + 2), 3 * 2)
    all_of_them = exact.costs.forward(held + 3 * (1 + n_target), 3 * n_target)
    assert PartialDraft(exact).score(layout, candidates, current).flops == all_of_them


def test_who_sees_whom_by_hand() -> None:
    # Suffix at 1 and 2 behind one token, then 3 and 4; row 0 replaces place 0 of it, row 1 nothing; computed is 4, too.
    changed, new = partial_draft._new_tokens([np.array([9, 6]), np.array([5, 6])], np.array([5, 6]))
    assert changed.tolist() == [[0], [-1]]
    assert new.tolist() == [[9], [0]]
    mask, positions = partial_draft._attention(changed, 1, 5, [4])
    assert positions.tolist() == [[1, 4], [1, 4]]
    # Columns: the five held tokens, the new one, the other. The new token sees what stands before its place, and
    # nobody sees what is held of a place that is computed.
    assert mask[0].int().tolist() == [[1, 0, 0, 0, 0, 1, 0], [1, 0, 1, 1, 0, 1, 1]]
    # A filling sees itself (and harmlessly what stands before it), and is seen by none.
    assert mask[1, 0, 5]
    assert mask[1, 1].int().tolist() == [1, 1, 1, 1, 0, 0, 1]


def test_models_that_it_cannot_read_are_named(
    loaded: Callable[..., ChatModel], behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed: Any = loaded(architecture="mistral")
    layout = laid_out(windowed, behavior)
    assert PartialDraft(Evaluator(windowed.module, cross_entropy), 2).why_not(layout) == (
        "the chat is longer than the 16 tokens that attention reaches"
    )
    bound = Evaluator(loaded().module, cross_entropy, ways=Ways(between=9))
    assert "in chats of more than 9 tokens attention depends on padding" in PartialDraft(bound, 2).why_not(layout)
    kinds = ["linear_attention", "linear_attention"]
    monkeypatch.setattr(windowed.module.config, "layer_types", kinds, raising=False)
    assert PartialDraft(Evaluator(windowed.module, cross_entropy), 2).why_not(layout) == (
        "the model's past is not keys and values by position"
    )


def test_tokens_replaced_by_themselves_must_change_nothing(
    loaded: Callable[..., ChatModel], behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    layout = laid_out(model, behavior)
    for n_target in (2, None):
        assert PartialDraft(Evaluator(model.module, cross_entropy), n_target).why_not(layout) == ""
    forward = model.module.forward

    def by_place(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)  # counts positions by itself, as attention by place in the row does

    def of_masks_of_its_own(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None:
            raise ValueError("too many\nvalues to unpack")
        return forward(*args, **kwargs)

    for change, why in (
        (by_place, r"tokens that are replaced by themselves move the loss from [0-9.]+ to [0-9.]+"),
        (of_masks_of_its_own, r"the model does not bear it \(ValueError: too many values to unpack\)"),
    ):
        monkeypatch.setattr(model.module, "forward", change)
        assert re.fullmatch(why, PartialDraft(Evaluator(model.module, cross_entropy, pack=False), 2).why_not(layout))


def test_where_it_serves_not_all_candidates_are_evaluated_exactly_and_one_line_says_so(
    loaded: Callable[..., ChatModel], caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = loaded(architecture="mistral")
    behaviors = [Behavior(behavior_id=name, prompt=f"Say {name}", target="Sure, it is") for name in ("b1", "b2")]

    def made(ranking: str) -> list[Any]:
        attack = GCG.model_validate({"n_steps": 2, "width": 8, "topk": 8, "ranking": ranking})
        rngs = [np.random.default_rng(i) for i in range(2)]
        return [
            (a.suffix, a.step, a.info["loss"], a.info["n_queries"]) for a in attack.craft_many(model, behaviors, rngs)
        ]

    exact = made("exact")
    caplog.clear()
    assert made("draft") == exact
    assert [record.getMessage() for record in caplog.records] == [
        f"{model.name}: no draft glimpse: the chat is longer than the 16 tokens that attention reaches; all candidates "
        "are evaluated exactly"
    ]
