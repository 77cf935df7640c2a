"""A row while it grows: its ids, and when it has enough of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rfbench.records import Finish

if TYPE_CHECKING:
    from rfbench.models.hf.generation import Row, StopRules
    from rfbench.models.thinking import Meter


@dataclass(slots=True)
class Growth:
    """A row while it grows."""

    meter: Meter | None
    max_thinking_tokens: int
    ids: list[int] = field(default_factory=list)
    flag_prob: list[float] = field(default_factory=list)
    finish: Finish | None = None

    @classmethod
    def of(cls, row: Row) -> Growth:
        """One that has no ids yet."""
        return cls(None if row.thinking is None else row.thinking(), row.max_thinking_tokens)

    def take(self, token: int, probability: float, stop: StopRules) -> None:
        """Append an id; ``finish`` says whether it was the last."""
        self.ids.append(token)
        self.flag_prob.append(probability)
        self.finish = stop.finish(token)
        if self.meter is None:
            n_answer, n_thought = len(self.ids), 0
        else:
            if self.meter.feed(token) and self.finish == "eos":
                self.finish = None  # the end of a message that was a thought
            n_answer, n_thought = self.meter.n_answer, self.meter.n_thought
        # The answer of a thought that ends at its limit is still due, and ids of the answer are not held against it.
        if self.finish is None and (
            n_answer >= stop.max_new_tokens
            or (self.meter is not None and self.meter.inside and n_thought >= self.max_thinking_tokens)
        ):
            self.finish = "length"
