"""Our generation against ``transformers`` ``generate``: same model, same batches, alternating, in one process.

    python benchmarks/generate.py [--json] [--rounds 3] [--batch-size 64]

64 prompts, 48 new tokens each, greedy, end of text ignored on both sides so that the work is equal. The
second comparison lets answers end where they end, which is what a run does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from rfbench import load_model
from rfbench.data.load import load_builtin
from rfbench.models.hf.model import HFModel
from rfbench.records import Attempt

N_PROMPTS, N_TOKENS = 64, 48


def prompts() -> list[Attempt]:
    """The first 64 harmful requests of the training set: any plain requests do."""
    behaviors = load_builtin("train/harmful")[:N_PROMPTS]
    return [Attempt(b.behavior_id, messages=[{"role": "user", "content": b.request}]) for b in behaviors]


def ours(model: HFModel, attempts: list[Attempt]) -> list[list[int]]:
    """Ids by this harness."""
    return [c.completion_ids.tolist() for c in model.generate(attempts, max_new_tokens=N_TOKENS)]


def theirs(model: HFModel, attempts: list[Attempt], eos: list[int] | None) -> list[list[int]]:
    """Ids by ``transformers`` on the batches that this harness would make: sorted by length."""
    chats = [model.encode(a.messages).ids for a in attempts]
    order = sorted(range(len(chats)), key=lambda i: (-len(chats[i]), chats[i]))
    results: list[list[int]] = [[] for _ in chats]
    for start in range(0, len(order), model.batch_size):
        batch = order[start : start + model.batch_size]
        width = max(len(chats[i]) for i in batch)
        ids = torch.tensor([[0] * (width - len(chats[i])) + list(chats[i]) for i in batch])
        mask = torch.tensor([[0] * (width - len(chats[i])) + [1] * len(chats[i]) for i in batch])
        with torch.inference_mode():
            output = model.module.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=N_TOKENS,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=0,
            )
        for i, row in zip(batch, output[:, width:].tolist(), strict=True):
            results[i] = row
    return results


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print seconds, tokens per second and the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    with load_model("smollm2", batch_size=arguments.batch_size) as model:
        assert isinstance(model, HFModel)
        attempts = prompts()
        natural = model.eos_ids
        model.module.generation_config.eos_token_id = None
        report: dict[str, Any] = {"threads": torch.get_num_threads(), "batch_size": arguments.batch_size}
        for name, eos in (("fixed_length", frozenset[int]()), ("natural_end", natural)):
            model.eos_ids = eos
            end = sorted(eos) or None
            agree = sum(
                a == b[: len(a)] for a, b in zip(ours(model, attempts), theirs(model, attempts, end), strict=True)
            )
            pairs = [
                (seconds(lambda: ours(model, attempts)), seconds(lambda end=end: theirs(model, attempts, end)))
                for _ in range(arguments.rounds)
            ]
            mine, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
            report[name] = {
                "rfbench_seconds": round(mine, 2),
                "transformers_seconds": round(reference, 2),
                "ratio": round(statistics.median(a / b for a, b in pairs), 3),
                "rows_equal": agree,
                "rows": len(attempts),
            }
            print(
                f"{name}: rfbench {mine:.2f} s, transformers {reference:.2f} s, ratio {report[name]['ratio']}, "
                f"{agree} of {len(attempts)} rows give equal ids"
            )
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
