"""Given answers read for their flags, against plain forward passes over the same batches, alternating, in one process.

    python benchmarks/answers.py [--answers 10000] [--tokens 100] [--model smollm2+redflag] [--rounds 3] [--json]

Goal: reading 10,000 answers of 100 tokens takes at most 1.1 times as long as the passes alone. Reading is all that the
measure ``answers`` does until it has P(flag) at every position, chat encoding included; a pass is given ids that are
encoded already, and its logits are dropped. What the figures take after that, 10,000 draws of each bootstrap included,
is said beside it: it hardly grows with the number of answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rfbench import load_model
from rfbench.analysis.metrics.answers import answer_figures
from rfbench.data.conversations import Conversation, exchange
from rfbench.data.grid import load_wordings
from rfbench.data.load import load_builtin
from rfbench.measures.answers import read_answers
from rfbench.models.hf.likelihood import Span, over_batches, padded_ids
from rfbench.models.hf.model import HFModel


def conversations(model: HFModel, n: int, n_tokens: int) -> list[Conversation]:
    """``n`` answers of about ``n_tokens`` tokens each, every other one labelled harmful: labels cost nothing."""
    requests, wordings = load_builtin("train/benign"), load_wordings()
    made = []
    for i in range(n):
        behavior = requests[i % len(requests)]
        text = wordings.safe_text(f"{behavior.behavior_id} {i}", len(wordings.safe))
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = model.tokenizer.decode((ids * (n_tokens // len(ids) + 1))[:n_tokens])
        label, onset = ("harmful", 40) if i % 2 else ("safe", None)
        made.append(
            exchange(f"a{i}", behavior.request, answer, label, request_kind="benign", onset=onset)  # type: ignore[arg-type]
        )
    return made


def encoded(model: HFModel, given: Sequence[Conversation]) -> list[Span]:
    """The positions that are read of each answer, as ids."""
    spans = []
    for conversation in given:
        (answer,) = conversation.answers
        chat = model.encode(answer.before, answer.turn.content)
        spans.append(Span((*chat.ids, 0), chat.span("prefill").start + 1, len(chat.ids) + 1))
    return spans


@torch.inference_mode()
def passes(model: HFModel, spans: Sequence[Span]) -> None:
    """Forward passes over the batches that reading makes, and nothing else."""

    def run(batch: Sequence[Span]) -> list[None]:
        kept = max(span.stop for span in batch) - min(span.start for span in batch)
        model.module(input_ids=padded_ids(batch).to(model.device), use_cache=False, logits_to_keep=kept)
        return [None] * len(batch)

    over_batches(model, spans, run)


def seconds(call: Callable[[], Any]) -> float:
    """Of one call: wall time on an accelerator, to the end of what it has started; else processor time, which others on
    the machine do not lengthen.
    """
    on_device = torch.cuda.is_available()
    clock = time.perf_counter if on_device else time.process_time
    started = clock()
    call()
    if on_device:
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    """Print seconds, and the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000, help="how many answers")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each")
    parser.add_argument("--model", default="smollm2+redflag", help="a model with a flag")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    with load_model(arguments.model) as model:
        if not isinstance(model, HFModel) or model.flag_id is None:
            parser.error(f"{arguments.model} has no flag to read")
        given = conversations(model, arguments.answers, arguments.tokens)
        spans = encoded(model, given)
        passes(model, spans[: model.batch_size])  # what a first pass costs once
        pairs = [
            (seconds(lambda: read_answers(model, given)), seconds(lambda: passes(model, spans)))
            for _ in range(arguments.rounds)
        ]
        readings = read_answers(model, given)
        after = seconds(lambda: list(answer_figures(readings, seed=0)))
    reading, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    n_tokens = sum(span.stop - span.start for span in spans)
    print(
        f"{len(given)} answers, {n_tokens} tokens of answers: reading {reading:.2f} s, passes alone {plain:.2f} s, "
        f"ratio {ratio:.3f}; figures {after:.2f} s"
    )
    if arguments.json:
        report = {"answers": len(given), "tokens": n_tokens, "threads": torch.get_num_threads()}
        took = {"reading_seconds": reading, "passes_seconds": plain, "ratio": ratio, "figures_seconds": after}
        print(json.dumps({**report, **took}))


if __name__ == "__main__":
    main()
