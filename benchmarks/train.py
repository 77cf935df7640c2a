"""A training step with packed weights against one with the layers' own: same start, same batches, alternating.

    python benchmarks/train.py [--json] [--recipe smollm2-redflag] [--rounds 4] [--threads N]

Every step meets new conversations, so that it includes what the frozen model makes of them, as most steps of a
training do. Answers are random ids of the recipe's length behind real requests: what they say does not change the
time. Ends with the seconds a step of both, and the median of their ratios by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

from rfbench.cli.allocator import keep_freed_memory
from rfbench.data.load import load_builtin
from rfbench.models.embedded import smollm2_folder
from rfbench.models.hf.model import HFModel
from rfbench.models.load import load_model
from rfbench.train.conversations import Conversation
from rfbench.train.loop import Pools, draw_step, make_optimiser, make_pools, train_step
from rfbench.train.network import Network, add_flag
from rfbench.train.recipe import Recipe, load_recipe


def conversations(model: HFModel, recipe: Recipe) -> Pools:
    """Requests of the project's own data with random answers, by kind."""
    rng = np.random.default_rng(0)
    found: list[Conversation] = []
    for kind, name in ((True, "train/harmful"), (False, "train/benign")):
        for behavior in load_builtin(name):
            prompt = model.encode([{"role": "user", "content": behavior.request}])
            answer = rng.integers(100, 40000, size=recipe.data.max_answer_tokens)
            key, start = behavior.behavior_id, len(prompt.ids)
            found.append(
                Conversation(
                    key=key,
                    behavior_id=key,
                    ids=np.concatenate([prompt.ids, answer]).astype(np.int32),
                    labels=np.full(len(answer), 1 if kind else -1, dtype=np.int8),
                    start=start,
                    n_prefill=0,
                    user=(0, start),
                )
            )
    return make_pools(found)


class Variant:
    """A network, its optimiser, and how far it has come."""

    def __init__(self, recipe: Recipe, *, pack: bool) -> None:
        model = load_model(str(smollm2_folder()), flag="none")
        assert isinstance(model, HFModel)
        self.pools = conversations(model, recipe)
        flag_id = None if recipe.flag is None else add_flag(model.module, model.tokenizer, recipe.flag)
        self.net = Network(model.module, recipe.lora, flag_id=flag_id, seed=0, pack=pack)
        self.optimiser = make_optimiser(self.net, recipe.optimiser)
        self.recipe = recipe
        self.step = 0

    def advance(self) -> float:
        """One step; its seconds."""
        groups = draw_step(self.pools, self.recipe, self.step)
        started = time.perf_counter()
        train_step(self.net, self.optimiser, groups, self.recipe, self.step)
        self.step += 1
        return time.perf_counter() - started


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--recipe", default="smollm2-redflag")
    parser.add_argument("--rounds", type=int, default=4, help="measured steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    recipe = load_recipe(arguments.recipe)
    variants = {"plain": Variant(recipe, pack=False), "packed": Variant(recipe, pack=True)}
    for variant in variants.values():  # the first step warms up
        variant.advance()
    seconds = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, variant in variants.items():
            seconds[name].append(variant.advance())
    ratios = [a / b for a, b in zip(seconds["packed"], seconds["plain"], strict=True)]
    report = {f"seconds_{name}": round(statistics.median(values), 2) for name, values in seconds.items()}
    report |= {"ratio": round(statistics.median(ratios), 3), "threads": arguments.threads}
    for name, value in report.items():
        print(f"{name}: {value}")
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
