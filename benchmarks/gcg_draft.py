"""How far a draft misses: the best of the candidates that it would keep, less the best of all, in nats.

    python benchmarks/gcg_draft.py [--json] [--behaviors 4] [--steps 36] [--width 32]

Exact searches on SmolLM2, each from the same initial suffix; at every third step all drafts rank the step's
candidates. `glimpse` is what `draft: glimpse` does, which looks at the target tokens that matter most; `anew` looks at
the first ones and computes everything behind a replaced token anew, which `gcg` does not offer. All drafts compute in
bfloat16 where this machine multiplies it, else in float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from rfbench import load_model
from rfbench.attacks.suffix.candidates import draw, top_ids
from rfbench.attacks.suffix.draft import in_dtype
from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import Layout, lay_out, searchable_ids
from rfbench.attacks.suffix.objectives import cross_entropy
from rfbench.attacks.suffix.partial_draft import PartialDraft
from rfbench.attacks.suffix.ranking import rank_correlation
from rfbench.cli.allocator import keep_freed_memory
from rfbench.data.load import load_builtin
from rfbench.models.embedded import smollm2_folder
from rfbench.models.hf.halfprecision import multiplies

TEMPLATE = [{"role": "user", "content": "{request}{optim_str}"}]
KEPT = (4, 8, 16)
Rank = Callable[[Layout, np.ndarray, np.ndarray], np.ndarray]


def drafts(evaluator: Evaluator) -> dict[str, Rank]:
    """Rankings to compare, by name."""

    def glimpse(n: int | None) -> Rank:
        return lambda layout, candidates, current: PartialDraft(evaluator, n).score(layout, candidates, current).losses

    def anew(n: int | None) -> Rank:
        return lambda layout, candidates, current: (
            evaluator.score(replace(layout, target=layout.target[:n]), candidates, current).losses
        )

    return {
        f"{name}, {'whole target' if n is None else f'{n} tokens'}": make(n)
        for name, make in (("glimpse", glimpse), ("anew", anew))
        for n in (2, 4, 8, None)
    }


def main() -> None:
    """Print a line for each draft."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--behaviors", type=int, default=4)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    model = load_model(str(smollm2_folder()))
    exact = Evaluator(model.module, cross_entropy)
    dtype = "bfloat16" if multiplies(torch.bfloat16, "cpu") else "float32"
    rankings = drafts(Evaluator(in_dtype(model.module, dtype), cross_entropy))
    allowed = torch.from_numpy(searchable_ids(model, non_ascii=False, admit=()))
    rng = np.random.default_rng(0)
    found: dict[str, list[list[float]]] = {name: [] for name in rankings}
    for behavior in load_builtin("train/harmful")[: arguments.behaviors]:
        layout = lay_out(model, TEMPLATE, behavior, " x" * 20, behavior.target)
        current = np.array(layout.suffix)
        for step in range(arguments.steps):
            (gradient,), _ = exact.gradients([(layout, tuple(current.tolist()))])
            candidates = draw(current, top_ids(gradient, allowed, 256), arguments.width, 1, rng)
            losses = exact.score(layout, candidates, current).losses
            if step % 3 == 2:
                for name, rank in rankings.items():
                    guesses = rank(layout, candidates, current)
                    order = np.argsort(guesses, kind="stable")
                    missed = [float(losses[order[:k]].min() - losses.min()) for k in KEPT]
                    found[name].append([rank_correlation(guesses, losses), *missed])
            current = candidates[losses.argmin()]
        print(f"{behavior.behavior_id}: loss {losses.min():.4f} after {arguments.steps} steps", flush=True)
    report: dict[str, dict[str, float]] = {}
    for name, rows in found.items():
        correlation, *missed = np.mean(rows, axis=0)
        figures = {"rank_correlation": correlation, **{f"missed_of_{k}": v for k, v in zip(KEPT, missed, strict=True)}}
        report[name] = {"n": len(rows), **{key: round(float(value), 4) for key, value in figures.items()}}
        kept = ", ".join(f"{k} kept {value:.4f}" for k, value in zip(KEPT, missed, strict=True))
        print(f"{name}: rank correlation {correlation:.2f}; {kept} (n {len(rows)})")
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
