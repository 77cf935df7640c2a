"""The state of a search after each step, and how it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rfbench.attacks.suffix.layout import Ids
from rfbench.files.arrays import pack, unpack

Entry = tuple[float, Ids]
"""A loss, and the suffix that has it."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A search after ``step`` steps: all that later steps depend on.

    ``buffer`` holds the suffixes that compete to be the next step's start, best first; ``best`` is the best of all
    steps, ``loss`` the lowest loss of this step. ``matched`` says that the search ended early because greedy
    decoding now gives the target. ``n_present`` counts the behaviors of a progressive search that are part of it
    by now; its losses are those on them, so ``best`` is the best since the last of them joined.
    """

    step: int
    buffer: tuple[Entry, ...]
    best: Entry
    loss: float
    matched: bool
    n_queries: int
    flops: float
    rng: Mapping[str, Any]
    n_present: int | None = None
    velocity: npt.NDArray[np.float32] | None = None
    """Momentum: the decaying sum of gradients, ``(s, v)``."""

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold, exactly."""
        velocity = None if self.velocity is None else pack(self.velocity)
        return asdict(replace(self, velocity=None)) | {"velocity": velocity}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """The inverse of :meth:`to_json`."""
        return cls(
            **{
                **values,
                "buffer": tuple(_entry(entry) for entry in values["buffer"]),
                "best": _entry(values["best"]),
                "velocity": None if values["velocity"] is None else unpack(values["velocity"]),
            }
        )


def _entry(values: Sequence[Any]) -> Entry:
    loss, ids = values
    return float(loss), tuple(ids)
