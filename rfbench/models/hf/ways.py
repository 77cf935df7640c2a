"""In which ways a model may be run so that it answers as one pass over the whole sequence does.

Keeping keys and values, rows side by side, padding, a beginning computed once: each saves time, and of each there are
architectures in which it changes the answer (attention that counts distance by place in the row, frequencies that
depend on the longest row of a batch, layers that want a cache of their own). No list of names says which: the check at
load measures them; see :mod:`rfbench.models.hf.selfcheck`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

NEVER = 0
"""Of padding: not even a single column of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What holds for one module; by default everything.

    Lengths are in tokens, padding included.
    """

    caches: bool = True
    """Keys and values of earlier tokens may be kept, those of rows of unequal length side by side."""
    own: bool = False
    """Where they may not: the cache that the module makes for itself serves the next step. Without either, every step
    computes the whole sequence anew."""
    batches: bool = True
    """Rows of equal length may stand side by side."""
    left: int | None = None
    """Longest rows that padding on their left leaves as they are; ``None`` for any."""
    between: int | None = None
    """The same of padding between a beginning that rows share and their own rest."""
    right: bool = True
    """Padding on the right leaves a row as it is."""
    vectors: bool = True
    """The vectors of ids give what the ids give."""
    border: int | None = None
    """Longest sequences before the frequencies of all positions become others; ``None`` where they never do."""
    steady: bool = True
    """Beyond the border they are the same at every length."""
    token_bytes: int | None = None
    """What is kept of one token, in bytes; ``None`` where that was not measured."""

    def may_share_batch(self, longer: int, shorter: int, n_new: int) -> bool:
        """Whether prompts of these lengths may share a batch that generates up to ``n_new`` tokens."""
        if not self.batches:
            return False
        if longer == shorter:
            return True
        fits = self.left is None or longer + n_new <= self.left
        return fits and self.serves(longer + n_new, shorter)

    def shares(self, longest: int, shortest: int, n_new: int) -> bool:
        """Whether what prompts of these lengths have in common may be computed once."""
        if not self.caches or (self.border is not None and longest + n_new > self.border):
            return False
        return longest == shortest or self.between is None or longest + n_new <= self.between

    def serves(self, total: int, shortest: int) -> bool:
        """Whether keys and values serve from prompts of ``shortest`` tokens on up to sequences of ``total``."""
        return self.caches and (self.border is None or total <= self.border or (self.steady and shortest > self.border))

    def keeps(self, n_tokens: int) -> bool:
        """Whether what is kept of ``n_tokens`` serves the next step, too."""
        if not (self.caches or self.own) or self.border is None or n_tokens < self.border:
            return self.caches or self.own
        return self.steady and n_tokens != self.border

    def full_pass_group(self, n_tokens: int) -> Hashable:
        """Rows for which this is equal may stand in one pass over whole sequences, padded on the right."""
        if not self.batches:
            return object()  # equal to nothing else
        if not self.right or (self.border is not None and n_tokens > self.border and not self.steady):
            return n_tokens
        return self.border is not None and n_tokens > self.border


def grouped(items: Sequence[Item], key: Callable[[Item], Hashable]) -> list[list[int]]:
    """Indices of ``items`` in groups of equal ``key``, both in the order in which they come."""
    groups: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(key(item), []).append(i)
    return list(groups.values())
