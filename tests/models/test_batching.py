from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfbench.errors import is_out_of_memory
from rfbench.models.hf.batching import BatchSizer, in_batches, unless_out_of_memory


def test_sizer_halves_what_failed_and_grows_again() -> None:
    sizer = BatchSizer(16, patience=2)
    assert sizer.ran_out(10)  # a batch smaller than asked for: half of what it held
    assert sizer.size == 5
    sizer.fitted()
    assert sizer.size == 5
    sizer.fitted()
    assert sizer.size == 10
    assert sizer.ran_out(10)
    for _ in range(5):
        sizer.fitted()
    assert sizer.size == 16  # never beyond what was asked for
    assert not sizer.ran_out(1)
    assert sizer.size == 1


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(10**15)  # what this machine's allocator says
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.fixture(autouse=True, scope="module")
def nothing_to_collect() -> Iterator[None]:
    """Collecting the garbage of a process that holds all test modules takes longer than these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rfbench.models.hf.batching.gc.collect", lambda: 0)
        yield


class Scarce:
    """Adds up numbers, no more than ``room`` of them at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def __call__(self, batch: Sequence[int]) -> int:
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise MemoryError
        return sum(batch)


def test_batches_shrink_to_what_fits_and_nothing_is_lost_or_done_twice() -> None:
    call, forgotten = Scarce(3), []
    items = list(range(1, 11))
    sums = in_batches(
        items, call, BatchSizer(8, patience=99), too_large=ValueError, forget=lambda: forgotten.append(True)
    )
    assert list(sums) == [1 + 2, 3 + 4, 5 + 6, 7 + 8, 9 + 10]
    assert call.tried == [8, 4, 2, 2, 2, 2, 2]
    assert len(forgotten) == 2


@given(st.integers(0, 30), st.integers(1, 9), st.integers(1, 9))
def test_whatever_fits_every_item_counts_once(n: int, room: int, limit: int) -> None:
    assert sum(in_batches(range(n), Scarce(room), BatchSizer(limit), too_large=ValueError)) == sum(range(n))


def test_an_item_that_fits_nowhere_is_named() -> None:
    with pytest.raises(KeyError, match="7"):
        list(in_batches([7, 8], Scarce(0), BatchSizer(2), too_large=KeyError))


def test_other_errors_pass() -> None:
    def broken(batch: Sequence[int]) -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        unless_out_of_memory(broken, [1])
