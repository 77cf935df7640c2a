from __future__ import annotations

import numpy as np
import pytest

from rfbench.attacks.suffix.candidates import Scores
from rfbench.attacks.suffix.ranking import DraftRanking, Evaluate, ProbeSampling, rank_correlation, rank_exact

CANDIDATES = np.arange(64)[:, None]


def evaluate(sign: float, asked: list[list[int]], flops: float) -> Evaluate:
    """A loss that is the candidate's id times ``sign``, at ``flops`` operations each."""

    def call(candidates: np.ndarray) -> Scores:
        ids = candidates[:, 0]
        asked.append(ids.tolist())
        return Scores(sign * ids.astype(float), ids == 63, flops * len(ids))

    return call


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_exact_ranking_evaluates_all() -> None:
    ranked = rank_exact(CANDIDATES, evaluate(1.0, [], 3.0), None, rng())
    assert ranked.indices.tolist() == list(range(64))
    assert (ranked.n_queries, ranked.flops) == (64, 192.0)


def test_draft_ranking_evaluates_the_draft_s_best_share() -> None:
    exact: list[list[int]] = []
    # The draft is wrong: it finds the largest ids best.
    ranked = DraftRanking(0.125)(CANDIDATES, evaluate(1.0, exact, 3.0), evaluate(-1.0, [], 1.0), rng())
    assert exact == [list(range(56, 64))]
    assert ranked.indices.tolist() == exact[0]
    assert ranked.scores.losses.tolist() == [float(i) for i in exact[0]]
    assert (ranked.n_queries, ranked.flops) == (8, 64.0 + 24.0)
    assert DraftRanking(1e-9)(CANDIDATES, evaluate(1.0, [], 0.0), evaluate(1.0, [], 0.0), rng()).indices.tolist() == [0]


@pytest.mark.parametrize(("share", "at_least", "n"), [(0.0625, 8, 8), (0.25, 8, 16), (0.0625, 100, 64), (0.0625, 1, 4)])
def test_draft_ranking_evaluates_no_fewer_than_at_least(share: float, at_least: int, n: int) -> None:
    ranked = DraftRanking(share, at_least)(CANDIDATES, evaluate(1.0, [], 0.0), evaluate(1.0, [], 0.0), rng())
    assert ranked.indices.tolist() == list(range(n))


@pytest.mark.parametrize(
    ("draft_sign", "n_best"),
    [
        (1.0, 1),  # full agreement, a = 1: none by the formula, one at least
        (-1.0, 8),  # none, a = 0: 64 / 8
    ],
)
def test_probe_sampling_trusts_the_draft_as_far_as_they_agree(draft_sign: float, n_best: int) -> None:
    asked: list[list[int]] = []
    ranked = ProbeSampling()(CANDIDATES, evaluate(1.0, asked, 3.0), evaluate(draft_sign, [], 1.0), rng())
    probe = asked[0]
    assert len(set(probe)) == 4  # 64 / 16
    best = list(range(n_best)) if draft_sign > 0 else list(range(64 - n_best, 64))
    assert ranked.indices.tolist() == [*probe, *(i for i in best if i not in probe)]
    assert ranked.scores.losses.tolist() == [float(i) for i in ranked.indices]
    assert ranked.flops == 64.0 + 3.0 * ranked.n_queries


def test_probe_sampling_of_a_single_candidate() -> None:
    ranked = ProbeSampling()(CANDIDATES[:1], evaluate(1.0, [], 3.0), evaluate(1.0, [], 1.0), rng())
    assert ranked.indices.tolist() == [0]
    assert ranked.scores.losses.tolist() == [0.0]


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6.
    assert rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.1, 99.0, 0.3])) == pytest.approx(0.6)
    assert rank_correlation(np.array([1.0, 2.0]), np.array([5.0, 5.0])) == 0.0
    assert rank_correlation(np.array([1.0]), np.array([5.0])) == 0.0


@pytest.mark.parametrize("ranking", [DraftRanking(0.125), ProbeSampling(4, 2)])
def test_without_a_draft_every_candidate_is_evaluated(ranking: DraftRanking | ProbeSampling) -> None:
    ranked = ranking(CANDIDATES, evaluate(1.0, [], 3.0), None, rng())
    want = rank_exact(CANDIDATES, evaluate(1.0, [], 3.0), None, rng())
    assert ranked.indices.tolist() == want.indices.tolist() == list(range(len(CANDIDATES)))
    assert (ranked.flops, ranked.n_queries) == (want.flops, len(CANDIDATES))
