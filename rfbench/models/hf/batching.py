"""How many rows a batch holds: as many as fit, fewer once memory has run out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rfbench.errors import is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchSizer:
    """Rows per batch: halved when memory runs out, doubled again after ``patience`` batches that fitted."""

    def __init__(self, limit: int, patience: int = 4) -> None:
        self.limit = limit
        self.size = limit
        self._patience = patience
        self._fitted = 0

    def fitted(self) -> None:
        """A batch went through."""
        self._fitted += 1
        if self._fitted >= self._patience and self.size < self.limit:
            self.size, self._fitted = min(self.limit, self.size * 2), 0

    def ran_out(self, rows: int) -> bool:
        """Memory ran out with ``rows`` rows: take half as many, and say whether trying again makes sense."""
        self.size, self._fitted = max(1, rows // 2), 0
        return rows > 1


def unless_out_of_memory(call: Callable[[Sequence[Item]], Result], batch: Sequence[Item]) -> Result | None:
    """``call(batch)``, or ``None`` when memory ran out: what the failed call held is free by then."""
    try:
        return call(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()
    return None


def in_batches(
    items: Sequence[Item],
    call: Callable[[Sequence[Item]], Result],
    sizer: BatchSizer,
    *,
    too_large: Callable[[Item], Exception],
    forget: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Results of ``call`` on successive batches of ``items``, smaller ones once memory has run out.

    Args:
        items: in the order in which they are taken.
        call: must not return ``None``.
        sizer: items at a time.
        too_large: what to raise where a single item does not fit.
        forget: drop what is only kept to save time; called before a smaller batch is tried.
    """
    done = 0
    while done < len(items):
        batch = items[done : done + sizer.size]
        result = unless_out_of_memory(call, batch)
        if result is None:
            forget()
            if not sizer.ran_out(len(batch)):
                raise too_large(batch[0])
            continue
        sizer.fitted()
        done += len(batch)
        yield result
