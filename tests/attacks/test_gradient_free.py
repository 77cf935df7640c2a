"""``random_search`` and ``beast`` on tiny models."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rfbench import load_model
from rfbench.attack import PromptAttack
from rfbench.attacks.beast import Beast, draw_without_replacement
from rfbench.attacks.random_search import RandomSearch, mutations, run_length
from rfbench.attacks.suffix.layout import searchable_ids
from rfbench.errors import NOT_FINITE, AttackError, ModelError
from rfbench.models.base import Capability
from rfbench.models.controls import ControlModel
from rfbench.models.hf.model import HFModel
from rfbench.records import Attempt, Behavior
from rfbench.run.craft import craft


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[HFModel]:
    with load_model(str(tiny_llama)) as loaded:
        assert isinstance(loaded, HFModel)
        yield loaded


def search(**changes: Any) -> RandomSearch:
    return RandomSearch(**{"n_steps": 12, "width": 6, "every": 4, "initial": " x" * 6, "first": 2} | changes)


def beast(**changes: Any) -> Beast:
    return Beast(**{"n_tokens": 5, "beams": 3, "draws": 4} | changes)


def run(attack: PromptAttack, model: Any, behavior: Behavior, seed: int = 0) -> list[Attempt]:
    return list(attack.craft(model, behavior, np.random.default_rng(seed)))


def loss_of(model: HFModel, attempt: Attempt, behavior: Behavior, first: int | None) -> float:
    """By a plain forward pass over what the attempt sends."""
    chat = model.encode(attempt.messages, behavior.target)
    start = chat.span("prefill").start
    targets = chat.ids[start:][:first]
    with torch.no_grad():
        log_p = model.module(input_ids=torch.tensor([chat.ids])).logits[0].log_softmax(dim=-1)
    return float(-np.mean([log_p[start - 1 + i, t].item() for i, t in enumerate(targets)]))


# --- the pieces, by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("probability", "n"), [(0.0, 8), (0.01, 8), (0.011, 4), (0.1, 4), (0.11, 2), (1.0, 2)])
def test_run_length_by_hand(probability: float, n: int) -> None:
    assert run_length(8, probability) == n
    assert run_length(1, probability) == 1


def test_mutations_replace_one_run_and_nothing_else() -> None:
    allowed = np.array([100, 101, 102])
    copies = mutations(np.arange(10), allowed, 200, 3, np.random.default_rng(0))
    assert copies.shape == (200, 10)
    starts = set()
    for row in copies:
        changed = np.flatnonzero(row != np.arange(10))
        assert changed.tolist() == list(range(changed[0], changed[0] + 3))
        assert set(row[changed]) <= set(allowed)
        starts.add(int(changed[0]))
    assert starts == set(range(8))  # every place, the last one too
    assert mutations(np.arange(2), allowed, 5, 9, np.random.default_rng(0)).min() >= 100


def test_draws_differ_and_follow_the_distribution() -> None:
    p = np.array([0.6, 0.3, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        log_p = np.tile(np.log(p), (20_000, 1))
    drawn = draw_without_replacement(log_p, 2, np.random.default_rng(0))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert 3 not in drawn
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=4) / 20_000, p, atol=0.015)
    # First 0 then 1: 0.6 x 0.3 / 0.4.
    assert ((drawn[:, 0] == 0) & (drawn[:, 1] == 1)).mean() == pytest.approx(0.45, abs=0.015)
    assert draw_without_replacement(log_p[:1, :3], 9, np.random.default_rng(0)).shape == (1, 3)


# --- both attacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [search(), beast()], ids=["random_search", "beast"])
class TestBoth:
    def test_the_text_has_the_loss_that_it_carries(
        self, model: HFModel, behavior: Behavior, attack: RandomSearch | Beast
    ) -> None:
        allowed = searchable_ids(model)
        for attempt in run(attack, model, behavior):
            chat = model.encode(attempt.messages, suffix=attempt.suffix)
            span = chat.span("suffix")
            assert list(chat.ids[span.start : span.stop]) == attempt.info["suffix_ids"]
            assert allowed[attempt.info["suffix_ids"]].all()  # neither the flag nor a special token
            assert attempt.info["loss"] == pytest.approx(loss_of(model, attempt, behavior, attack.first), abs=1e-4)

    def test_same_seed_same_attempts(self, model: HFModel, behavior: Behavior, attack: PromptAttack) -> None:
        assert run(attack, model, behavior) == run(attack, model, behavior)
        assert run(attack, model, behavior)[-1].suffix != run(attack, model, behavior, seed=1)[-1].suffix

    def test_it_asks_for_nothing_but_log_probabilities(
        self, model: HFModel, behavior: Behavior, attack: PromptAttack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Operations are counted from the weights, where there are some to see.
        expected = [
            dataclasses.replace(a, info={name: value for name, value in a.info.items() if name != "flops"})
            for a in run(attack, model, behavior)
        ]
        monkeypatch.setattr(HFModel, "capabilities", frozenset({Capability.LOGPROBS}))
        monkeypatch.setattr(HFModel, "embedding", property(lambda self: pytest.fail("looked into the model")))
        monkeypatch.setattr(HFModel, "device", torch.device("cpu"))
        assert run(attack, model, behavior) == expected
        assert type(attack).needs == {Capability.LOGPROBS}

    def test_what_strikes_is_clear(
        self, model: HFModel, tiny_llama: Path, behavior: Behavior, attack: PromptAttack
    ) -> None:
        assert "needs logprobs, which model 'never-flag' lacks; use backend hf" in attack.why_not(
            ControlModel("never-flag")
        )
        with pytest.raises(AttackError, match="'b1' has no target to optimise; add a target column"):
            run(attack, model, dataclasses.replace(behavior, target=""))
        with load_model(str(tiny_llama)) as broken:
            assert isinstance(broken, HFModel)
            with torch.no_grad():
                broken.module.model.norm.weight.fill_(float("nan"))
            result = craft(attack, broken, [behavior], 0)
        assert result.errors["b1"] == f"behavior 'b1': {NOT_FINITE}"


def test_random_search_keeps_only_what_helps(model: HFModel, behavior: Behavior) -> None:
    attempts = run(search(n_steps=40, every=1), model, behavior)
    losses = [a.info["loss"] for a in attempts]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    assert attempts[0].suffix == " x" * 6
    assert attempts[0].info["n_queries"] == 1
    assert attempts[-1].info["n_queries"] <= 1 + 40 * 6


def operations(model: HFModel, n_tokens: int, n_logits: int) -> float:
    """Two per weight and token: attention 2 x 32 x (32 + 16), MLP 3 x 32 x 64, two layers, and the output head."""
    body, head = 2 * (2 * 32 * (32 + 16) + 3 * 32 * 64), len(model.tokenizer) * 32
    return 2.0 * (body * n_tokens + head * n_logits)


def test_random_search_counts_every_token_of_every_sequence(model: HFModel, behavior: Behavior) -> None:
    attempts = run(search(), model, behavior)
    prompt = model.encode(attempts[0].messages)
    one = operations(model, len(prompt.ids) + 2, 2)  # two tokens of the target count, at two of them logits are read
    assert [a.info["flops"] for a in attempts] == [a.info["n_queries"] * one for a in attempts]
    assert attempts[-1].info["n_queries"] > 12


def test_beast_counts_what_it_draws_from_and_what_it_tries(model: HFModel, behavior: Behavior) -> None:
    zero, first = run(beast(n_tokens=1), model, behavior)
    n_target = len(zero.info["target_ids"])
    bare = model.encode(zero.messages)
    n_bare, n_before = len(bare.ids), bare.span("user").stop
    spent = operations(model, n_bare + n_target, n_target)
    assert zero.info["flops"] == spent
    spent += operations(model, n_before, 1)  # what comes next where the suffix is to stand
    n_tried = first.info["n_queries"] - 2
    spent += n_tried * operations(model, n_bare + 1 + n_target, n_target)
    assert first.info["flops"] == spent


def test_random_search_thins_out_and_stops(model: HFModel, behavior: Behavior) -> None:
    attempts = run(search(n_steps=10), model, behavior)
    assert [(a.step, a.attempt_idx, a.final) for a in attempts] == [
        (0, 0, False),
        (4, 1, False),
        (8, 2, False),
        (10, 3, True),
    ]
    initial = math.exp(-2 * attempts[0].info["loss"])
    (only,) = run(search(stop_at=initial * 0.99), model, behavior)
    assert (only.step, only.final) == (0, True)


def test_beast_grows_one_token_a_step_and_more_beams_serve_better(model: HFModel, behavior: Behavior) -> None:
    attempts = run(beast(), model, behavior)
    assert [a.step for a in attempts] == [0, 1, 2, 3, 4, 5]
    assert all(len(a.info["suffix_ids"]) <= a.step for a in attempts)
    assert [(a.attempt_idx, a.final) for a in attempts] == [(i, i == 5) for i in range(6)]
    assert attempts[0].messages == ({"role": "user", "content": behavior.request},)
    # One prompt asked for its continuation and 3 candidates, as many as there are beams; then 3 beams and 12
    # candidates; less what did not survive.
    spent = [a.info["n_queries"] for a in attempts]
    assert spent[0] == 1
    assert spent[1] <= 1 + 1 + 3
    assert all(1 < b - a <= 3 + 12 for a, b in itertools.pairwise(spent[1:]))
    wide = run(beast(beams=8, draws=12), model, behavior)[-1].info["loss"]
    narrow = run(beast(beams=1, draws=1), model, behavior)[-1].info["loss"]
    assert wide < narrow
    assert [a.step for a in run(beast(every=2), model, behavior)] == [0, 2, 4, 5]


def test_beast_ends_with_the_best_of_all_steps(model: HFModel, behavior: Behavior) -> None:
    for seed in range(5):
        attempts = run(beast(n_tokens=8, beams=2, draws=1), model, behavior, seed)
        reached = [a.info["step_loss"] for a in attempts]
        assert [a.info["loss"] for a in attempts] == [min(reached[: i + 1]) for i in range(9)]
        if reached[-1] > min(reached):
            assert attempts[-1].suffix == attempts[int(np.argmin(reached))].suffix
            return
    pytest.fail("the last beam was the best for every seed: nothing was shown")


def test_beast_begins_with_as_many_beams_as_it_keeps(model: HFModel, behavior: Behavior) -> None:
    zero, first = run(beast(n_tokens=1, beams=6, draws=1), model, behavior)
    assert 2 < first.info["n_queries"] - zero.info["n_queries"] <= 1 + 6


def test_beast_attacks_a_request_that_holds_what_would_mark_the_place(model: HFModel, behavior: Behavior) -> None:
    awkward = dataclasses.replace(behavior, prompt="Solve for x: why is xx in an x-ray?")
    assert [a.step for a in run(beast(), model, awkward)] == [0, 1, 2, 3, 4, 5]


def test_beast_says_when_the_suffix_does_not_fit(model: HFModel, behavior: Behavior) -> None:
    with pytest.raises(AttackError, match=r"more than the context of 2048; lower n_tokens"):
        run(beast(n_tokens=3000), model, behavior)


@pytest.mark.parametrize("fields", [{"initial": " "}, {"max_change": 0}, {"stop_at": 0.0}, {"first": 0}])
def test_random_search_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        search(**fields)


@pytest.mark.parametrize("attack", [search(n_steps=2), Beast(n_tokens=2, beams=2, draws=4)], ids=lambda a: a.name)
def test_a_sequence_that_is_too_much_for_memory_concerns_its_behavior(
    model: HFModel, behavior: Behavior, attack: PromptAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise ModelError("out of memory with a single row")

    monkeypatch.setattr(model, "target_log_probs", short)
    crafted = craft(attack, model, [behavior], 0)
    assert crafted.errors == {"b1": "behavior 'b1': out of memory with a single row"}
