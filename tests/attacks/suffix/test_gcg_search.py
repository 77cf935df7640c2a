"""The loop on a planted problem: one known best id per position, a gradient that points to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rfbench.attacks.suffix.candidates import Scores
from rfbench.attacks.suffix.chats import Placement, gradients
from rfbench.attacks.suffix.layout import Ids, Layout
from rfbench.attacks.suffix.ranking import DraftRanking, ProbeSampling, Ranking, rank_exact
from rfbench.attacks.suffix.search import Search, Settings, finished, optimise
from rfbench.attacks.suffix.state import State
from rfbench.errors import AttackError

V = 10
DISTINCT = [9, 9, 8, 7, 7, 7]
"""Candidates of the steps of the plain search: three ids for each of three positions. Those that are in the suffix
already make one candidate together, the suffix itself."""
LAYOUT = Layout(before=(0,), suffix=(0, 0, 0), after=(0,), target=(0,))


class Planted:
    """An evaluator whose loss is the mean distance of a suffix from ``goal``, matched where that is 0.

    Its gradient is the loss that each id would have; ``scale`` multiplies both, ``spoil`` is called on losses.
    """

    def __init__(self, goal: Ids, *, scale: float = 1.0, spoil: Any = None) -> None:
        self.goal, self.scale, self.spoil = np.array(goal), scale, spoil
        self.n_scored = 0
        self.batches: list[int] = []

    def score(self, layout: Layout, candidates: np.ndarray, current: np.ndarray) -> Scores:
        self.n_scored += len(candidates)
        losses = self.scale * np.abs(candidates - self.goal).mean(axis=1)
        if self.spoil is not None:
            losses = self.spoil(losses)
        return Scores(losses, losses == 0, float(len(candidates)))

    def prefix_flops(self, layout: Layout) -> float:
        return 1000.0

    def gradients(self, suffixes: Sequence[tuple[Layout, Ids]]) -> tuple[list[torch.Tensor], float]:
        self.batches.append(len(suffixes))
        distances = np.abs(np.arange(V)[None] - self.goal[:, None])
        gradient = self.scale * torch.from_numpy(distances).float()
        return [gradient.clone() for _ in suffixes], 100.0 * len(suffixes)


class Odd:
    """A round trip that only suffixes with no even id above zero survive."""

    def survivors(self, candidates: np.ndarray) -> np.ndarray:
        return ((candidates % 2 == 1) | (candidates == 0)).all(axis=1)


def search(*evaluators: Planted, seed: int = 0, round_trip: Any = None, **options: Any) -> Search:
    placements = [Placement(e, LAYOUT, round_trip, options.get("draft")) for e in evaluators]  # type: ignore[arg-type]
    allowed = torch.ones(V, dtype=torch.bool)
    initial = options.get("initial", [(0, 0, 0)])
    return Search(placements, initial, allowed, np.random.default_rng(seed))


def settings(**changes: Any) -> Settings:
    base: dict[str, Any] = {
        "n_steps": 6,
        "width": 200,  # so many draws leave out none of the nine replacements
        "topk": 3,
        "n_replace": 1,
        "buffer_size": 0,
        "momentum": 0.0,
        "early_stop": False,
        "ranking": rank_exact,
    }
    return Settings(**base | changes)


def run(one: Search, how: Settings, start: State | None = None) -> list[State]:
    states = [state for _, state in optimise({"a": one}, {} if start is None else {"a": start}, how)]
    assert all(isinstance(state, State) for state in states)
    return states  # type: ignore[return-value]


def test_the_planted_suffix_is_found_one_position_a_step() -> None:
    planted = Planted((7, 2, 5))
    states = run(search(planted), settings())
    assert [state.step for state in states] == list(range(7))
    assert [round(state.loss, 6) for state in states[:4]] == pytest.approx([14 / 3, 7 / 3, 2 / 3, 0.0])
    assert states[3].best == (0.0, (7, 2, 5))
    assert states[-1].best == (0.0, (7, 2, 5))
    assert [state.n_queries for state in states] == [1 + i + sum(DISTINCT[:i]) for i in range(7)]
    assert [state.flops for state in states] == [1001.0 + 100.0 * i + sum(DISTINCT[:i]) for i in range(7)]


def test_the_same_generator_gives_the_same_search_and_another_one_another() -> None:
    def suffixes(seed: int) -> list[Ids]:
        return [state.buffer[0][1] for state in run(search(Planted((7, 2, 5)), seed=seed), settings(width=3))]

    assert suffixes(1) == suffixes(1) != suffixes(2)


def test_early_stop_ends_on_a_match_with_what_matched() -> None:
    states = run(search(Planted((7, 2, 5))), settings(early_stop=True))
    assert [state.matched for state in states] == [False, False, False, True]
    assert finished(states[-1], settings(early_stop=True))
    # The initial suffix that matches counts, whichever it is.
    begun = run(search(Planted((7, 2, 5)), initial=[(0, 0, 0), (7, 2, 5)]), settings(early_stop=True))
    assert [(state.step, state.best) for state in begun] == [(0, (0.0, (7, 2, 5)))]


def test_a_match_counts_that_is_not_the_lowest_loss() -> None:
    class Elsewhere(Planted):
        """Matched are suffixes that end with 4, a replacement that never has the lowest loss."""

        def score(self, layout: Layout, candidates: np.ndarray, current: np.ndarray) -> Scores:
            return dataclasses.replace(super().score(layout, candidates, current), matched=candidates[:, -1] == 4)

    stopped, plain = (run(search(Elsewhere((7, 2, 5))), settings(early_stop=stop)) for stop in (True, False))
    assert stopped[-1].step == 1
    assert stopped[-1].best[1] == (0, 0, 4)
    assert plain[1].best[1] == (7, 0, 0)
    begun = run(search(Elsewhere((7, 2, 5)), initial=[(7, 2, 5), (0, 0, 4)]), settings(early_stop=True))
    assert [(state.step, state.best[1]) for state in begun] == [(0, (0, 0, 4))]


def test_a_buffer_never_goes_back_and_starts_from_its_best() -> None:
    how = settings(width=2, n_steps=8)
    kept = run(
        search(Planted((7, 2, 5)), initial=[(9, 9, 9), (0, 0, 0), (7, 9, 9)]), dataclasses.replace(how, buffer_size=2)
    )
    assert [ids for _, ids in kept[0].buffer] == [(7, 9, 9), (9, 9, 9)]
    assert [loss for loss, _ in kept[0].buffer] == pytest.approx([11 / 3, 13 / 3])
    losses = [state.buffer[0][0] for state in kept]
    assert losses == sorted(losses, reverse=True)
    assert all(len(state.buffer) == 2 and list(state.buffer) == sorted(state.buffer) for state in kept)
    plain = [state.buffer[0][0] for state in run(search(Planted((7, 2, 5))), settings(width=2, n_steps=12))]
    assert plain != sorted(plain, reverse=True)  # without one, a step may go back


def test_a_buffer_is_filled_with_random_suffixes_that_survive() -> None:
    begun = search(Planted((7, 2, 5)), round_trip=Odd()).start(settings(buffer_size=4))
    suffixes = [ids for _, ids in begun.buffer]
    assert len(suffixes) == begun.n_queries == 4
    assert (0, 0, 0) in suffixes
    assert Odd().survivors(np.array(suffixes)).all()
    assert begun.best == begun.buffer[0]
    assert begun.best[0] < 14 / 3  # one of the random ones
    assert begun == search(Planted((7, 2, 5)), round_trip=Odd()).start(settings(buffer_size=4))
    others = search(Planted((7, 2, 5)), seed=1, round_trip=Odd()).start(settings(buffer_size=4))
    assert [ids for _, ids in others.buffer] != suffixes

    class Nothing:
        def survivors(self, candidates: np.ndarray) -> np.ndarray:
            return np.zeros(len(candidates), dtype=np.bool_)

    assert len(search(Planted((7, 2, 5)), round_trip=Nothing()).start(settings(buffer_size=4)).buffer) == 1
    assert search(Planted((7, 2, 5))).start(settings()).n_queries == 1  # without a buffer there is nothing to fill


def test_momentum_sums_decaying_gradients() -> None:
    planted = Planted((7, 2, 5))
    states = run(search(planted), settings(momentum=0.5, n_steps=2))
    gradient = np.abs(np.arange(V)[None] - np.array([[7], [2], [5]]))
    assert states[0].velocity is None
    assert states[1].velocity is not None
    np.testing.assert_array_equal(states[1].velocity, gradient)
    np.testing.assert_array_equal(states[2].velocity, 1.5 * gradient)
    assert all(state.velocity is None for state in run(search(planted), settings(n_steps=2)))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_search_goes_on_from_any_saved_state_as_if_never_stopped(momentum: float, progressive: bool) -> None:
    how = settings(width=20, momentum=momentum, buffer_size=2, progressive=progressive)

    def planted(seed: int) -> Search:
        return search(Planted((7, 2, 5)), Planted((7, 2, 1)), seed=seed)

    def fingerprint(states: list[State]) -> list[str]:
        return [json.dumps(state.to_json()) for state in states]

    whole = run(planted(3), how)
    assert (whole[-1].n_present == 2) == progressive
    for state in whole:
        saved = State.from_json(json.loads(json.dumps(state.to_json())))
        rest = run(planted(99), how, saved)
        assert fingerprint(rest) == fingerprint(whole[state.step + 1 :])


def test_several_chats_and_models_are_searched_together() -> None:
    one, other = Planted((7, 2, 5)), Planted((7, 2, 1), scale=1000.0)
    states = run(search(one, one, other), settings(n_steps=3))
    # Position 2 stays: the best directions of both gradients are 5, 4 and 3, and the loss is mostly the second's.
    assert states[-1].best[1] == (7, 2, 0)
    assert states[-1].best[0] == pytest.approx((5 / 3 + 5 / 3 + 1000 / 3) / 3)
    assert one.batches == [2] * 3  # both chats of a model in one batch
    assert other.batches == [1] * 3
    assert states[1].n_queries - states[0].n_queries == 3 * (1 + 9)


def test_gradients_of_several_models_have_one_length_each() -> None:
    one, other = Planted((7, 2, 5)), Planted((7, 2, 1), scale=1000.0)
    both = search(one, other)
    gradient, flops = gradients({"a": both.current(both.start(settings()))})["a"]
    alone = [evaluator.gradients([(LAYOUT, (0, 0, 0))])[0][0] for evaluator in (one, other)]
    torch.testing.assert_close(gradient, sum(g / g.norm(dim=-1, keepdim=True) for g in alone))
    assert flops == 200.0


def test_only_survivors_are_evaluated_and_none_is_an_error() -> None:
    planted = Planted((7, 2, 5))
    states = run(search(planted, round_trip=Odd()), settings())
    assert states[-1].best[1] in {(7, 1, 5), (7, 3, 5)}
    assert planted.n_scored < 1 + sum(DISTINCT)
    even = Planted((8, 8, 8))
    outcomes = [o for _, o in optimise({"a": search(even, round_trip=Odd())}, {}, settings(topk=1, width=40))]
    assert isinstance(outcomes[0], State)
    assert isinstance(outcomes[1], AttackError)
    assert str(outcomes[1]).startswith(
        "none of 40 candidates survives decoding and re-encoding inside the chat; choose"
    )


@pytest.mark.parametrize("ranking", [DraftRanking(0.5), ProbeSampling(4, 2)])
def test_losses_that_are_not_finite_end_a_search_that_ranks(ranking: Ranking) -> None:
    def outcomes(exact: Planted, draft: Planted) -> list[State | AttackError]:
        return [o for _, o in optimise({"a": search(exact, draft=draft)}, {}, settings(ranking=ranking))]

    calls = iter(range(9))
    planted, broken = Planted((7, 2, 5)), Planted((7, 2, 5), spoil=lambda losses: losses * np.nan)
    later = Planted((7, 2, 5), spoil=lambda losses: losses if next(calls) == 0 else losses * np.nan)
    assert str(outcomes(planted, broken)[1]).startswith("no loss of the draft is finite at step 1")
    assert str(outcomes(later, planted)[1]).startswith("the loss is not finite at step 1")
    # A guess that is no number is one that nobody follows.
    partly = Planted((7, 2, 5), spoil=lambda losses: np.where(np.arange(len(losses)) == 0, np.nan, losses))
    assert all(isinstance(outcome, State) for outcome in outcomes(planted, partly))


def test_a_gradient_that_does_not_fit_ends_its_search_and_no_other() -> None:
    class Full(Planted):
        def gradients(self, suffixes: Sequence[tuple[Layout, Ids]]) -> tuple[list[torch.Tensor], float]:
            if any(layout.before == (1, 1) for layout, _ in suffixes):
                raise AttackError("out of memory with a single sequence")
            return super().gradients(suffixes)

    full = Full((7, 2, 5))
    long = dataclasses.replace(
        search(full), placements=[Placement(full, dataclasses.replace(LAYOUT, before=(1, 1)), None)]
    )  # type: ignore[arg-type]
    outcomes = list(optimise({"long": long, "good": search(full)}, {}, settings(n_steps=3)))
    assert [str(o) for name, o in outcomes if not isinstance(o, State)] == ["out of memory with a single sequence"]
    assert [o.step for name, o in outcomes if name == "good" and isinstance(o, State)] == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_its_search_and_no_other(bad: float) -> None:
    calls = 0

    def spoil(losses: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return np.where(np.arange(len(losses)) == 0, bad, losses) if calls == 3 else losses

    searches = {"bad": search(Planted((7, 2, 5), spoil=spoil)), "good": search(Planted((7, 2, 5)))}
    outcomes = list(optimise(searches, {}, settings()))
    (error,) = [o for name, o in outcomes if name == "bad" and not isinstance(o, State)]
    assert str(error) == "the loss is not finite at step 2 (too small a dtype, broken weights?)"
    assert [o.step for name, o in outcomes if name == "good" and isinstance(o, State)] == list(range(7))
    broken = search(Planted((7, 2, 5), spoil=lambda losses: losses + bad))
    ((_, error),) = optimise({"a": broken}, {}, settings())
    assert "step 0" in str(error)


def test_searches_side_by_side_share_gradient_batches_and_nothing_else() -> None:
    planted = Planted((7, 2, 5))
    together: dict[str, list[State]] = {"a": [], "b": []}
    for name, state in optimise({"a": search(planted, seed=1), "b": search(planted, seed=2)}, {}, settings(width=3)):
        assert isinstance(state, State)
        together[name].append(state)
    assert set(planted.batches) == {2}
    assert together["a"] == run(search(Planted((7, 2, 5)), seed=1), settings(width=3))
    assert together["b"] == run(search(Planted((7, 2, 5)), seed=2), settings(width=3))


def test_a_progressive_search_adds_a_behavior_once_all_present_ones_are_solved() -> None:
    one, other = Planted((7, 2, 5)), Planted((7, 2, 1))
    states = run(search(one, other), settings(progressive=True))
    assert [state.n_present for state in states] == [1, 1, 1, 2, 2, 2, 2]
    # Alone with the first: as in the plain search. At step 3 it is solved, and the same suffix is 4/3 from the second.
    assert [round(state.loss, 6) for state in states[:3]] == pytest.approx([14 / 3, 7 / 3, 2 / 3], abs=1e-6)
    assert states[3].best == states[3].buffer[0] == (pytest.approx((0 + 4 / 3) / 2), (7, 2, 5))
    assert states[3].loss == states[3].best[0]
    # From there the mean of both counts: no suffix is nearer to both than 4/3 in sum, at the third position.
    assert states[-1].best[0] == pytest.approx(2 / 3)
    assert not states[-1].matched
    # 1 + 3 x (gradient and candidates), then the suffix that is kept under both, then all of it under both.
    assert [state.n_queries for state in states[:4]] == [1, 1 + 10, 1 + 10 + 10, 1 + 10 + 10 + 9 + 2]
    assert [state.flops for state in states[2:4]] == [1001 + 109 + 109, 1001 + 109 + 109 + 108 + 2 + 1000]
    # Under both, two replacements are the id that stands there: of the ids between 1 and 5, which are tied, 5 is one.
    assert states[4].n_queries - states[3].n_queries == 2 * (1 + 7)
    assert states[4].flops - states[3].flops == 2 * (100 + 7)
    assert one.batches == [1, 1, 1, 1, 1, 1]
    assert other.batches == [1, 1, 1]


def test_a_progressive_suffix_survives_also_where_it_is_yet_to_be_searched() -> None:
    """All behaviors are sent the suffix, from the first step on."""
    both = search(Planted((7, 2, 5)), Planted((7, 2, 5)))
    second = dataclasses.replace(both.placements[1], round_trip=Odd())
    states = run(dataclasses.replace(both, placements=[both.placements[0], second]), settings(progressive=True))
    assert states[1].n_present == 1
    assert Odd().survivors(np.array([state.best[1] for state in states])).all()
    assert states[-1].best[1] in {(7, 1, 5), (7, 3, 5)}


def test_every_model_must_say_the_target_before_a_behavior_joins() -> None:
    def two_models(solved_by_both: bool) -> Search:
        of_first = [Planted((7, 2, 5)), Planted((7, 2, 5) if solved_by_both else (7, 2, 9))]
        both = search(*of_first, Planted((0, 0, 0)), Planted((0, 0, 0)))
        return dataclasses.replace(both, n_models=2)

    assert [s.n_present for s in run(two_models(True), settings(progressive=True, n_steps=4))] == [1, 1, 1, 2, 2]
    assert {s.n_present for s in run(two_models(False), settings(progressive=True, n_steps=8))} == {1}


def test_a_progressive_search_stops_early_only_when_all_are_solved() -> None:
    def stops(*goals: Ids) -> list[State]:
        return run(search(*map(Planted, goals)), settings(progressive=True, early_stop=True, n_steps=9))

    assert [s.matched for s in stops((7, 2, 5))] == [False, False, False, True]
    joined = stops((7, 2, 5), (7, 2, 5))
    assert [(s.n_present, s.matched) for s in joined[2:]] == [(1, False), (2, False), (2, True)]
    assert not any(s.matched for s in stops((7, 2, 5), (7, 2, 1)))


def test_of_one_behavior_a_progressive_search_is_the_plain_one() -> None:
    plain, progressive = (
        run(search(Planted((7, 2, 5)), seed=4), settings(width=3, progressive=p)) for p in (False, True)
    )
    assert [dataclasses.replace(s, n_present=None) for s in progressive] == plain


def test_the_draft_ranks_and_the_model_decides() -> None:
    planted, draft = Planted((7, 2, 5)), Planted((7, 2, 5), scale=10.0)
    states = run(search(planted, draft=draft), settings(ranking=DraftRanking(0.25), n_steps=3))
    assert states[-1].best == (0.0, (7, 2, 5))
    assert draft.n_scored == 9 + 9 + 8
    assert planted.n_scored == 1 + 3 * 2
    assert states[-1].n_queries == 1 + 3 * (1 + 2)
    assert states[-1].flops == 1001 + 3 * 100 + (9 + 9 + 8) + 3 * 2
