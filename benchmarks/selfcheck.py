"""What the self-check at load costs, beside an answer of 32 tokens to the same prompt.

    python benchmarks/selfcheck.py [--model smollm2] [--rounds 5] [--json]

Goal: at most 3 s of processor time for the default model on two cores. Prints the median of some rounds, alternating.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from rfbench import load_model
from rfbench.models.hf.model import HFModel
from rfbench.models.hf.selfcheck import check_module

SENTENCE = "The user asks and the assistant answers. "
N_TOKENS = 100


def processor_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with load_model(arguments.model) as model:
        if not isinstance(model, HFModel):
            parser.error(f"{arguments.model} has no weights to check")
        ids = tuple(model.tokenizer(SENTENCE * N_TOKENS, add_special_tokens=False)["input_ids"][:N_TOKENS])
        variants: dict[str, Callable[[], object]] = {
            "check": lambda: check_module(model.module, ids, model.max_context, model.device),
            "answer": lambda: model.continue_ids([ids], max_new_tokens=32),
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(arguments.rounds):
            for name, work in variants.items():
                times[name].append(processor_seconds(work))
    check, answer = (statistics.median(times[name]) for name in ("check", "answer"))
    print(f"self-check {check:.2f} s of processor time, an answer {answer:.2f} s, ratio {check / answer:.2f}")
    if arguments.json:
        print(json.dumps({"check": check, "answer": answer, "ratio": check / answer}))


if __name__ == "__main__":
    main()
