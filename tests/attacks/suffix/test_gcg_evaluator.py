"""Losses and gradients against the plain computation: whole sequences, no cache, one-hot vectors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from chats import INITIAL, TEMPLATE

from rfbench.attacks.suffix import evaluator as evaluator_module
from rfbench.attacks.suffix.costs import Costs
from rfbench.attacks.suffix.draft import int8_copy
from rfbench.attacks.suffix.evaluator import Evaluator, shares_prefixes
from rfbench.attacks.suffix.layout import Ids, Layout, lay_out
from rfbench.attacks.suffix.objectives import Objective, cross_entropy, objective
from rfbench.errors import AttackError
from rfbench.models.base import ChatModel
from rfbench.models.hf.generation import PrefixMemory
from rfbench.records import Behavior

ARCHITECTURES: list[dict[str, Any]] = [
    {},
    {"tied": False, "style": "llama3"},
    {"architecture": "mistral"},  # a window of 16, far shorter than the chats
]
LONG = Behavior(behavior_id="b2", prompt="Name a river, and then a long one, and then the longest.", target="Sure")


def plain_losses(model: Any, layout: Layout, candidates: np.ndarray, loss: Objective) -> list[float]:
    """Each candidate on its own, the whole sequence, all logits."""
    losses = []
    for candidate in candidates.tolist():
        ids = torch.tensor([layout.fill(candidate)])
        with torch.no_grad():
            logits = model.module(input_ids=ids, use_cache=False).logits
        n = len(layout.target)
        losses.append(loss(logits[:, -n - 1 : -1], ids[:, -n:]).item())
    return losses


def plain_gradient(model: Any, layout: Layout, suffix: Ids, loss: Objective) -> torch.Tensor:
    """With respect to one-hot vectors ``(s, v)``, the whole sequence."""
    weight = model.embedding.weight.detach()
    one_hot = torch.nn.functional.one_hot(torch.tensor(layout.fill(suffix)), len(weight)).float().requires_grad_()
    logits = model.module(inputs_embeds=(one_hot @ weight)[None], use_cache=False).logits
    n = len(layout.target)
    value = loss(logits[:, -n - 1 : -1], torch.tensor([layout.target])).sum()
    (gradient,) = torch.autograd.grad(value, one_hot)
    start = len(layout.before)
    return gradient[start : start + len(suffix)]


def variations(layout: Layout, n: int = 21, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that differ from the current suffix in none, one, or several positions, in no order."""
    rng = np.random.default_rng(seed)
    current = np.array(layout.suffix)
    candidates = np.tile(current, (n, 1))
    for i in range(1, n):
        where = rng.permutation(len(current))[: 1 + i % 3]
        candidates[i, where] = rng.integers(10, 250, size=len(where))
    return rng.permutation(candidates), current


@pytest.mark.parametrize("variant", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_losses_are_those_of_whole_sequences(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any], batch: int, alpha: float | None
) -> None:
    model: Any = loaded(**variant)
    layout = lay_out(model, TEMPLATE, behavior, INITIAL, behavior.target)
    candidates, current = variations(layout)
    scores = Evaluator(model.module, objective(alpha), batch=batch).score(layout, candidates, current)
    expected = plain_losses(model, layout, candidates, objective(alpha))
    assert np.abs(scores.losses - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1  # the order of candidates matters


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_losses_stay_exact_over_steps_and_chats(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any]
) -> None:
    """The cache of one step or chat is not taken for that of another."""
    model: Any = loaded(**variant)
    evaluator = Evaluator(model.module, cross_entropy, batch=4)
    layouts = [lay_out(model, TEMPLATE, b, INITIAL, b.target) for b in (behavior, LONG)]
    for seed in range(3):
        for layout in layouts:
            candidates, current = variations(layout, 9, seed)
            evaluator.gradients([(layout, layout.suffix)])
            scores = evaluator.score(layout, candidates, current)
            assert np.abs(scores.losses - plain_losses(model, layout, candidates, cross_entropy)).max() < 1e-4


@pytest.mark.parametrize("variant", ARCHITECTURES)
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_gradients_of_chats_of_unequal_length_in_one_batch(
    loaded: Callable[..., ChatModel], behavior: Behavior, variant: dict[str, Any], alpha: float | None
) -> None:
    model: Any = loaded(**variant)
    work = []
    for b, text in ((behavior, INITIAL), (LONG, " ! ? ;"), (behavior, " y y")):
        layout = lay_out(model, TEMPLATE, b, text, b.target)
        work.append((layout, layout.suffix))
    evaluator = Evaluator(model.module, objective(alpha))
    together, _ = evaluator.gradients(work)
    for (layout, suffix), gradient in zip(work, together, strict=True):
        expected = plain_gradient(model, layout, suffix, objective(alpha))
        (alone,), _ = evaluator.gradients([(layout, suffix)])
        assert gradient.shape == (len(suffix), len(model.embedding.weight))
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-4)


def test_gradients_leave_weights_without_any(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    model: Any = loaded()
    Evaluator(model.module, cross_entropy).gradients([(layout, layout.suffix)])
    assert all(p.grad is None for p in model.module.parameters())


def test_embeddings_that_scale_are_followed(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    class Scaled(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 3.0 * super().forward(ids)

    module = copy.deepcopy(loaded(tied=False).module)  # type: ignore[attr-defined]
    plain = module.get_input_embeddings()
    scaled = Scaled(*plain.weight.shape)
    scaled.weight = torch.nn.Parameter(plain.weight.detach() / 3.0)
    (expected,), _ = Evaluator(module, cross_entropy).gradients([(layout, layout.suffix)])
    module.set_input_embeddings(scaled)
    (gradient,), _ = Evaluator(module, cross_entropy).gradients([(layout, layout.suffix)])
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
    hooked = torch.nn.Embedding.from_pretrained(scaled.weight.detach())
    hooked.register_forward_hook(lambda module, inputs, output: 3.0 * output)
    module.set_input_embeddings(hooked)
    (gradient,), _ = Evaluator(module, cross_entropy).gradients([(layout, layout.suffix)])
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_without_prefix_reuse_the_same_losses_at_a_higher_price(
    loaded: Callable[..., ChatModel], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    candidates, current = variations(layout)
    reusing = Evaluator(model.module, cross_entropy).score(layout, candidates, current)
    monkeypatch.setattr(model.module, "_is_stateful", True, raising=False)
    assert not shares_prefixes(model.module)
    whole = Evaluator(model.module, cross_entropy).score(layout, candidates, current)
    np.testing.assert_allclose(reusing.losses, whole.losses, atol=1e-4)
    costs = Costs.of(model.module)
    n_logits = len(candidates) * len(layout.target)
    n_tokens = len(candidates) * (len(layout.fill(layout.suffix)) - 1)  # nothing follows the last one
    assert whole.flops == costs.forward(n_tokens, n_logits)
    assert Evaluator(model.module, cross_entropy).prefix_flops(layout) == 0.0
    assert reusing.flops < 0.65 * whole.flops


def test_layers_with_a_state_of_their_own_are_not_cut(loaded: Callable[..., ChatModel], monkeypatch: Any) -> None:
    module = loaded(architecture="mistral").module  # type: ignore[attr-defined]
    assert shares_prefixes(module)
    monkeypatch.setattr(module.config, "layer_types", ["full_attention", "linear_attention"], raising=False)
    assert not shares_prefixes(module)


def test_operations_by_hand(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    model: Any = loaded()
    # Two layers: q and o 32 x 32, k and v 32 x 16, three products 32 x 64.
    body = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    head = len(model.embedding.weight) * 32
    assert Costs.of(model.module) == Costs(body, head)
    assert Costs.of(loaded(tied=False).module) == Costs(body, head)  # type: ignore[attr-defined]
    evaluator = Evaluator(model.module, cross_entropy)
    one = evaluator.score(layout, np.array([layout.suffix]), np.array(layout.suffix))
    # Nothing follows the last token of the target, so that it is no input.
    rest, n = len(layout.fill(layout.suffix)) - len(layout.before) - 1, len(layout.target)
    assert one.flops == 2 * body * rest + 2 * head * n
    assert evaluator.prefix_flops(layout) == 2 * body * len(layout.before)
    _, there_and_back = evaluator.gradients([(layout, layout.suffix)])
    assert there_and_back == 2 * one.flops + 2 * head * len(layout.suffix)
    # Two that differ in the last suffix token: all others of the suffix are computed for one row only.
    two = np.array([layout.suffix, (*layout.suffix[:-1], layout.suffix[-1] + 1)])
    s = len(layout.suffix)
    shared_once = s - 1 + 2 * (rest - s + 1)
    for _ in range(2):  # what is cached already is counted all the same, at every step
        evaluator.gradients([(layout, layout.suffix)])
        assert evaluator.score(layout, two, two[0]).flops == 2 * body * shared_once + 2 * head * 2 * n


def test_a_match_is_what_greedy_decoding_gives(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    model: Any = loaded()
    prompt = [*layout.before, *layout.suffix, *layout.after]
    with torch.no_grad():
        for _ in range(3):
            prompt.append(int(model.module(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()))
    said = Layout(layout.before, layout.suffix, layout.after, tuple(prompt[-3:]))
    other = Layout(layout.before, layout.suffix, layout.after, (*prompt[-3:-1], prompt[-1] ^ 1))
    evaluator = Evaluator(model.module, cross_entropy)
    current = np.array(layout.suffix)
    assert evaluator.score(said, current[None], current).matched.tolist() == [True]
    assert evaluator.score(other, current[None], current).matched.tolist() == [False]


def test_of_equal_logits_decoding_takes_the_first(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    module = copy.deepcopy(loaded().module)  # type: ignore[attr-defined]
    prompt = [*layout.before, *layout.suffix, *layout.after]
    current = np.array(layout.suffix)
    with torch.no_grad():
        said = int(module(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
        other = next(i for i in range(said) if i not in prompt)
        module.get_input_embeddings().weight[other] = module.get_input_embeddings().weight[said]
    evaluator = Evaluator(module, cross_entropy)
    tied = [Layout(layout.before, layout.suffix, layout.after, (each,)) for each in (said, other)]
    assert [evaluator.score(each, current[None], current).matched.tolist() for each in tied] == [[False], [True]]


def test_the_flag_bias_is_part_of_the_model(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    model: Any = loaded()
    forced = Layout(layout.before, layout.suffix, layout.after, (model.flag_id,))
    current = np.array(layout.suffix)

    def loss(bias: float) -> float:
        evaluator = Evaluator(model.module, cross_entropy, flag_id=model.flag_id, flag_bias=bias)
        return float(evaluator.score(forced, current[None], current).losses[0])

    p = math.exp(-loss(0.0))
    odds = math.exp(2.0) * p / (1 - p)
    assert math.exp(-loss(2.0)) == pytest.approx(odds / (1 + odds), rel=1e-4)


def test_chats_that_are_searched_in_turn_are_computed_once(
    loaded: Callable[..., ChatModel], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    chats = [Layout((*layout.before[:-1], i), layout.suffix, layout.after, layout.target) for i in range(5, 8)]
    evaluator = Evaluator(model.module, cross_entropy)
    prefills: list[Ids] = []
    prefill = PrefixMemory.prefill

    def watched(self: PrefixMemory, module: Any, ids: Ids, device: Any) -> Any:
        if self.n_computed == 0:
            prefills.append(ids)
        return prefill(self, module, ids, device)

    monkeypatch.setattr(PrefixMemory, "prefill", watched)
    candidates, current = variations(layout)
    for _ in range(3):
        found = [evaluator.score(chat, candidates, current) for chat in chats]
    assert prefills == [chat.before for chat in chats]
    for chat, scores in zip(chats, found, strict=True):
        alone = Evaluator(model.module, cross_entropy).score(chat, candidates, current)
        assert (scores.losses.tolist(), scores.flops) == (alone.losses.tolist(), alone.flops)
    monkeypatch.setattr(evaluator_module, "MAX_ROOTS", 2)
    small = Evaluator(model.module, cross_entropy)
    del prefills[:]
    for _ in range(2):
        for chat in chats:
            small.rewind(chat)
    assert prefills == [chat.before for chat in chats] * 2  # three in turn do not fit into two places


def test_memory_that_runs_out_halves_the_batch_and_then_is_an_error(
    loaded: Callable[..., ChatModel], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded()
    candidates, current = variations(layout)
    sizes: list[int] = []
    limit = 5
    call = Evaluator._score_batch

    def short_of_memory(self: Evaluator, rows: Any, layout: Layout) -> Any:
        sizes.append(len(rows))
        if len(rows) > limit:
            raise RuntimeError("CUDA out of memory")
        return call(self, rows, layout)

    expected = Evaluator(model.module, cross_entropy).score(layout, candidates, current).losses
    monkeypatch.setattr(evaluator_module.Evaluator, "_score_batch", short_of_memory)
    losses = Evaluator(model.module, cross_entropy, batch=16).score(layout, candidates, current).losses
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert sizes[:4] == [16, 8, 4, 4]
    limit = 0
    with pytest.raises(AttackError, match="out of memory with a single sequence"):
        Evaluator(model.module, cross_entropy, batch=4).score(layout, candidates, current)


def test_the_8_bit_copy_ranks_nearly_as_the_model_does(loaded: Callable[..., ChatModel], layout: Layout) -> None:
    from rfbench.attacks.suffix.ranking import rank_correlation

    model: Any = loaded()
    candidates, current = variations(layout, 40)
    exact = Evaluator(model.module, cross_entropy)
    before = {name: p.clone() for name, p in model.module.state_dict().items()}
    draft = Evaluator(int8_copy(model.module), cross_entropy, costs=exact.costs)
    cheap, dear = draft.score(layout, candidates, current), exact.score(layout, candidates, current)
    assert rank_correlation(cheap.losses, dear.losses) > 0.9
    assert not np.array_equal(cheap.losses, dear.losses)
    assert cheap.flops == dear.flops
    assert all(torch.equal(p, before[name]) for name, p in model.module.state_dict().items())
