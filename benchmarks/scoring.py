"""Speed of the flag scorer, side by side with a plain Python loop, on one core.

    python benchmarks/scoring.py [--tokens 10000000] [--json]

Goal: 10 million generated tokens in at most one second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rfbench.scoring.flags import score_flags

FLAG_ID = 49_152


def plain_loop(rows: Sequence[Sequence[int]], flag_id: int) -> tuple[list[int], list[int]]:
    """Position of the first flag of each row (-1 without one) and their number, as one would write it first."""
    positions, counts = [], []
    for row in rows:
        position, count = -1, 0
        for i, token in enumerate(row):
            if token == flag_id:
                position = i if count == 0 else position
                count += 1
        positions.append(position)
        counts.append(count)
    return positions, counts


def seconds(function: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Best CPU time of a few calls, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="generated tokens in all (about)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 513, size=max(1, arguments.tokens // 256))
    arrays = [rng.integers(0, FLAG_ID, size=length, dtype=np.int32) for length in lengths]
    for array in arrays[::2]:
        array[-1:] = FLAG_ID
    n_tokens = int(lengths.sum())
    arrow = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), np.concatenate(arrays))
    lists = [array.tolist() for array in arrays]

    took_loop, expected = seconds(lambda: plain_loop(lists, FLAG_ID), repeats=1)
    took = {"plain loop over lists": took_loop}
    for name, rows in (("lists", lists), ("numpy arrays", arrays), ("pyarrow column", arrow)):
        took[f"score_flags, {name}"], scores = seconds(lambda rows=rows: score_flags(rows, [FLAG_ID]))
        if (scores.flag_pos.tolist(), scores.n_flags.tolist()) != expected:
            raise SystemExit(f"score_flags on {name} disagrees with the plain loop")

    print(f"{n_tokens:,} tokens in {len(lengths):,} completions")
    for name, best in took.items():
        print(f"  {name:<28} {best:8.3f} s  {n_tokens / best / 1e6:8.1f} million tokens/s  {took_loop / best:6.1f} x")
    if arguments.json:
        print(json.dumps({"n_tokens": n_tokens, "n_completions": len(lengths), "seconds": took}))


if __name__ == "__main__":
    main()
