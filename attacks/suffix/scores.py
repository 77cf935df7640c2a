"""What is known of candidates, and what gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rfbench.attacks.suffix.layout import Layout

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Scores:
    """Of candidates: losses ``(c,)``, whether the target is what the model would greedily say ``(c,)``, and the cost.

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
