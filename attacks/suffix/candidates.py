"""Candidate suffixes: the best replacements of each position, draws from them, and the scores that they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rfbench.attacks.suffix.layout import Layout
from rfbench.errors import AttackError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of candidates: losses ``(c,)``, whether greedy decoding gives the target ``(c,)``, and the cost.

    ``flops`` counts the floating point operations of the model's matrix products; see
    :class:`rfbench.attacks.suffix.evaluator.Evaluator`.
    """

    losses: npt.NDArray[np.float64]
    matched: npt.NDArray[np.bool_]
    flops: float


class Scorer(Protocol):
    """What gives candidates a loss: an evaluator, or a cheaper draft of one."""

    def score(self, layout: Layout, candidates: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> Scores:
        """Scores of candidates ``(c, s)``, variations of the suffix ``current`` ``(s,)``."""


def top_ids(gradient: torch.Tensor, allowed: torch.Tensor, k: int) -> IntArray:
    """Ids whose one-hot direction lowers the loss most, by position.

    Args:
        gradient: of the loss with respect to one-hot suffix tokens, ``(s, v)``.
        allowed: the search space, ``(v,)``, bool.
        k: ids per position; all allowed ones when there are fewer.

    Returns:
        Ids ``(s, k)``, most negative gradient first.

    Raises:
        AttackError: nothing is allowed, or the gradient is not finite.
    """
    n_allowed = int(allowed.sum())
    if not n_allowed:
        raise AttackError("no id is left in the search space; set non_ascii, or admit tokens by name")
    if not gradient.isfinite().all():
        raise AttackError("the gradient is not finite (too small a dtype, broken weights?)")
    ranked = gradient.masked_fill(~allowed, float("inf")).topk(min(k, n_allowed), dim=-1, largest=False)
    ids: IntArray = ranked.indices.cpu().numpy()
    return ids


def draw(current: IntArray, top: IntArray, width: int, n_replace: int, rng: np.random.Generator) -> IntArray:
    """Copies of ``current`` with ``n_replace`` positions each replaced, both drawn uniformly (Algorithm 1).

    Args:
        current: ids of the suffix, ``(s,)``.
        top: replacements to draw from, ``(s, k)``.
        width: number of copies.
        n_replace: positions to replace; all of them when the suffix is shorter.
        rng: source of the draws.

    Returns:
        Candidates ``(width, s)``.
    """
    positions = rng.random((width, len(current))).argsort(axis=1)[:, :n_replace]
    picks = rng.integers(top.shape[1], size=positions.shape)
    candidates = np.tile(current, (width, 1))
    np.put_along_axis(candidates, positions, top[positions, picks], axis=1)
    return candidates


def distinct(candidates: IntArray) -> IntArray:
    """Candidates ``(c, s)`` without repetitions, in their order.

    Drawing with replacement, as Algorithm 1 does, gives some candidates twice; their losses are the same.
    """
    _, first = np.unique(candidates, axis=0, return_index=True)
    return candidates[np.sort(first)]


def first_change(candidates: IntArray, current: IntArray) -> IntArray:
    """First position in which each candidate ``(c, s)`` differs from ``current`` ``(s,)``; ``s`` where none does."""
    changed = candidates != current
    return np.where(changed.any(axis=1), changed.argmax(axis=1), len(current))
