"""Our LoRA fine-tuning against a bare loop of torch and peft: same model, same batches, alternating, in one process.

    python benchmarks/finetune.py [--json] [--steps 12] [--batch-size 5] [--examples 20] [--threads N]

The bare loop is what the documentation of peft shows: ``get_peft_model``, padded ids with an attention mask, labels
of -100 before the answers, ``loss.backward()``, AdamW. Tokens are those of requests and answers, without padding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rfbench.attacks.weights.examples import converse, draw, read_requests
from rfbench.attacks.weights.trainable import Lora, with_lora
from rfbench.attacks.weights.training import MAX_GRAD_NORM, Schedule, fine_tune, imitate
from rfbench.models.embedded import smollm2_folder
from rfbench.models.hf.model import HFModel
from rfbench.models.load import load_model
from rfbench.train.batches import batch_at
from rfbench.train.conversations import Conversation

LEARNING_RATE = 1e-4
SEED = 0


def ours(model: HFModel, examples: Sequence[Conversation], n_steps: int, batch_size: int) -> Iterator[int]:
    """One step of the attack's own loop for each item asked for."""
    trainable = with_lora(model.module, Lora(), seed=SEED)
    schedule = Schedule(checkpoints=tuple(range(1, n_steps + 1)), batch_size=batch_size, learning_rate=LEARNING_RATE)
    yield from fine_tune(trainable.module, trainable.parameters, examples, imitate, schedule, seed=SEED)


def bare(examples: Sequence[Conversation], n_steps: int, batch_size: int) -> Iterator[int]:
    """One step of the bare loop for each item asked for."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = Lora()
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    peft = get_peft_model(model, config)
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(n_steps):
        optimiser.zero_grad()
        peft(**collate(batch_at(step, examples, batch_size, SEED, "fine-tuning")), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimiser.step()
        yield step + 1


def collate(conversations: Sequence[Conversation]) -> dict[str, torch.Tensor]:
    """Ids ``(c, p)`` padded on the right, their mask, and labels."""
    width = max(len(c.ids) for c in conversations)
    ids, mask = (torch.zeros((len(conversations), width), dtype=torch.int64) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, c in enumerate(conversations):
        found = torch.from_numpy(c.ids.astype(np.int64))
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
        labels[row, c.start : len(found)] = found[c.start :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def seconds(steps: Iterator[int]) -> float:
    """Wall time of one step."""
    started = time.perf_counter()
    next(steps)
    return time.perf_counter() - started


def main() -> None:
    """Print tokens a second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--steps", type=int, default=12, help="steps of each side; the first two warm up")
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--threads", type=int, help="default: torch's own")
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error("--steps must be at least 3")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with load_model("smollm2") as model:
        assert isinstance(model, HFModel)
        requests = read_requests((), harmful=True)
        drawn = draw({"harmful": arguments.examples}, requests, (), np.random.default_rng(SEED))
        examples = converse(model, drawn, 32)
        variants = {
            "rfbench": ours(model, examples, arguments.steps, arguments.batch_size),
            "bare": bare(examples, arguments.steps, arguments.batch_size),
        }
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for step in range(arguments.steps):
            # Alternating, and each first in turn: what else the machine does hits both.
            for name in sorted(variants, reverse=bool(step % 2)):
                taken[name].append(seconds(variants[name]))
    batches = [batch_at(step, examples, arguments.batch_size, SEED, "fine-tuning") for step in range(arguments.steps)]
    tokens = [sum(len(c.ids) for c in batch) for batch in batches]
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "tokens_per_step": round(statistics.mean(tokens))}
    speeds = {name: [n / s for n, s in zip(tokens, times, strict=True)][2:] for name, times in taken.items()}
    for name, values in speeds.items():
        report[f"tokens_per_second_{name}"] = round(statistics.median(values), 1)
    report["ratio"] = round(statistics.median(a / b for a, b in zip(speeds["rfbench"], speeds["bare"], strict=True)), 3)
    print(
        f"rfbench {report['tokens_per_second_rfbench']} tokens a second, bare loop "
        f"{report['tokens_per_second_bare']}, ratio {report['ratio']} (at least 0.8 is wanted)"
    )
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
