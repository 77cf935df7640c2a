"""Which candidates of a step are evaluated exactly: all of them, or those that a cheaper draft ranks best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rfbench.attacks.suffix.candidates import Scores

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]

Evaluate = Callable[["IntArray"], Scores]
"""Candidates ``(c, s)`` to their scores."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Candidates that were evaluated exactly: their indices ``(c,)`` and scores, and what ranking cost.

    ``flops`` is the cost of all that was computed, the draft's work included; ``n_queries`` counts exact
    evaluations only.
    """

    indices: IntArray
    scores: Scores
    flops: float

    @property
    def n_queries(self) -> int:
        """Candidates evaluated exactly."""
        return len(self.indices)


class Ranking(Protocol):
    """A way to choose the candidates that are evaluated exactly."""

    def __call__(
        self, candidates: IntArray, exact: Evaluate, draft: Evaluate | None, rng: np.random.Generator
    ) -> Ranked:
        """Rank candidates ``(c, s)``; without a draft, all of them are evaluated exactly."""


def rank_exact(candidates: IntArray, exact: Evaluate, draft: Evaluate | None, rng: np.random.Generator) -> Ranked:
    """Evaluate every candidate exactly."""
    scores = exact(candidates)
    return Ranked(np.arange(len(candidates)), scores, scores.flops)


@dataclass(frozen=True, slots=True)
class DraftRanking:
    """Evaluate exactly the share of candidates that the draft finds best, and of few candidates ``at_least`` so many.

    The loss of their best above that of all candidates' best depends on their number more than on their share.
    """

    share: float
    at_least: int = 1

    def __call__(
        self, candidates: IntArray, exact: Evaluate, draft: Evaluate | None, rng: np.random.Generator
    ) -> Ranked:
        """See :class:`Ranking`."""
        if draft is None:
            return rank_exact(candidates, exact, draft, rng)
        guesses = draft(candidates)
        chosen = _best(guesses.losses, max(self.at_least, round(self.share * len(candidates))))
        scores = exact(candidates[chosen])
        return Ranked(chosen, scores, guesses.flops + scores.flops)


@dataclass(frozen=True, slots=True)
class ProbeSampling:
    """Evaluate exactly a random probe set, and the fewer of the draft's best the better the two models agree on it.

    Zhao et al. 2024 (arXiv 2403.01251), algorithm 1: a probe set of ``c / probe_divisor`` of the ``c`` candidates;
    agreement ``a = (1 + Spearman's rank correlation) / 2``; ``(1 - a) * c / reduction`` of the draft's best.
    """

    probe_divisor: int = 16
    reduction: int = 8

    def __call__(
        self, candidates: IntArray, exact: Evaluate, draft: Evaluate | None, rng: np.random.Generator
    ) -> Ranked:
        """See :class:`Ranking`."""
        if draft is None:
            return rank_exact(candidates, exact, draft, rng)
        c = len(candidates)
        probe = np.sort(rng.permutation(c)[: max(1, c // self.probe_divisor)])
        guesses = draft(candidates)
        probed = exact(candidates[probe])
        agreement = (1 + rank_correlation(probed.losses, guesses.losses[probe])) / 2
        best = _best(guesses.losses, int((1 - agreement) * c / self.reduction))
        more = best[~np.isin(best, probe)]  # known already
        rest = exact(candidates[more]) if len(more) else Scores(np.empty(0), np.empty(0, dtype=np.bool_), 0.0)
        scores = Scores(
            np.concatenate([probed.losses, rest.losses]),
            np.concatenate([probed.matched, rest.matched]),
            probed.flops + rest.flops,
        )
        return Ranked(np.concatenate([probe, more]), scores, guesses.flops + scores.flops)


def rank_correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two samples ``(n,)``; 0 where it is undefined (a constant, one value, NaN)."""
    from scipy.stats import rankdata

    if len(a) < 2 or not np.isfinite([a, b]).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _best(losses: npt.NDArray[np.float64], n: int) -> IntArray:
    """Indices of the ``n`` lowest losses, at least one, ascending; a loss that is no number comes last."""
    return np.sort(np.argsort(losses, kind="stable")[: max(1, n)])
