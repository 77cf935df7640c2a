"""One side of ``benchmarks/gcg.py``: reads a job as a JSON line, runs it, answers with a JSON line.

    python gcg_worker.py rfbench|nanogcg MODEL_FOLDER THREADS DEVICE DTYPE

Each side runs in its own process and environment; this file imports nothing that only one of them has.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

Job = dict[str, Any]
"""``request``, ``target``, ``initial``, ``n_steps``, ``width``, ``topk``, ``seed``, and for rfbench ``fields``."""


def nanogcg_side(folder: str, device: str, dtype: str) -> Callable[[Job], dict[str, Any]]:
    """Runs of the nanogcg package; a step lasts from one gradient to the next, or to the end."""
    import nanogcg
    from nanogcg.gcg import GCG
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    gradient = GCG.compute_token_gradient
    marks: list[float] = []

    def timed_gradient(self: Any, ids: Any) -> Any:
        marks.append(time.perf_counter())
        return gradient(self, ids)

    GCG.compute_token_gradient = timed_gradient

    def run(job: Job) -> dict[str, Any]:
        marks.clear()
        config = nanogcg.GCGConfig(
            num_steps=job["n_steps"],
            optim_str_init=job["initial"],
            search_width=job["width"],
            topk=job["topk"],
            seed=job["seed"],
            verbosity="ERROR",
        )
        messages = [{"role": "user", "content": job["request"] + "{optim_str}"}]
        result = nanogcg.run(model, tokenizer, messages, job["target"], config)
        ends = [*marks[1:], time.perf_counter()]
        return {"seconds": [b - a for a, b in zip(marks, ends, strict=True)], "loss": result.best_loss}

    return run


def rfbench_side(folder: str, device: str, dtype: str) -> Callable[[Job], dict[str, Any]]:
    """Runs of the ``gcg`` attack; a step lasts from one attempt to the next."""
    import numpy as np

    from rfbench import load_model
    from rfbench.attacks.gcg import GCG
    from rfbench.cli.allocator import keep_freed_memory
    from rfbench.records import Behavior

    keep_freed_memory()  # as the command line does
    model = load_model({"spec": folder, "device": device, "dtype": dtype})

    def run(job: Job) -> dict[str, Any]:
        attack = GCG(
            n_steps=job["n_steps"],
            width=job["width"],
            topk=job["topk"],
            initial=(job["initial"],),
            **job["fields"],
        )
        behavior = Behavior(behavior_id="benchmark", prompt=job["request"], target=job["target"])
        marks, infos = [], []
        for attempt in attack.craft(model, behavior, np.random.default_rng(job["seed"])):
            marks.append(time.perf_counter())
            infos.append(attempt.info)
        return {
            "seconds": [b - a for a, b in itertools.pairwise(marks)],
            "loss": infos[-1]["loss"],
            "initial_loss": infos[0]["loss"],
            "flops": [b["flops"] - a["flops"] for a, b in itertools.pairwise(infos)],
        }

    return run


def peak_memory_mb(device: str) -> float:
    """Most memory that this process held so far: tensors on an accelerator, else all of the process."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    """Answer jobs until the input ends."""
    side, folder, threads, device, dtype = sys.argv[1:]
    torch.set_num_threads(int(threads))
    run = {"nanogcg": nanogcg_side, "rfbench": rfbench_side}[side](folder, device, dtype)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        answer = run(json.loads(line))
        print(json.dumps({**answer, "peak_memory_mb": peak_memory_mb(device)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
