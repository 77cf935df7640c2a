"""Log-probabilities of given ids, without generating anything.

Shapes: ``b`` rows, ``l`` tokens of the longest row, ``t`` target tokens, ``v`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rfbench.errors import NOT_FINITE, BrokenLogits, ModelError
from rfbench.models.hf.batching import BatchSizer, in_batches
from rfbench.models.hf.kept import logits_at
from rfbench.models.hf.ways import Ways, grouped

Row = tuple[tuple[int, ...], tuple[int, ...] | None]
"""Ids of a prompt, and those of an answer, or ``None`` for all ids that may come next."""


def read_log_probs(
    module: Any,
    rows: Sequence[Row],
    sizer: BatchSizer,
    flag: tuple[int | None, float],
    device: torch.device,
    ways: Ways,
) -> list[npt.NDArray[np.float64]]:
    """For each row the log-probabilities of its answer's ids ``(t,)``, or of every next id ``(v,)``.

    Args:
        module: a causal language model of transformers.
        rows: what to read.
        sizer: rows at a time, fewer while memory runs out.
        flag: id whose logit gets a bias, and the bias.
        device: where inputs go.
        ways: in which the model may be run.

    Raises:
        ModelError: memory does not suffice for one row, or logits are not finite (``BrokenLogits``).
    """

    def read(batch: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        return _read_batch(module, batch, flag, device)

    def too_large(_: Row) -> ModelError:
        return ModelError("out of memory with a single sequence; take a smaller dtype or a shorter prompt")

    found: dict[int, npt.NDArray[np.float64]] = {}
    for group in grouped(rows, lambda row: ways.full_pass_group(len(row[0]) + len(row[1] or ()))):
        parts = in_batches([rows[i] for i in group], read, sizer, too_large=too_large)
        found.update(zip(group, (row for part in parts for row in part), strict=True))
    return [found[i] for i in range(len(rows))]


@torch.inference_mode()
def _read_batch(
    module: Any, rows: Sequence[Row], flag: tuple[int | None, float], device: torch.device
) -> list[npt.NDArray[np.float64]]:
    """Rows are padded on the right, where causal attention never looks."""
    sequences = [(*prompt, *(answer or ())) for prompt, answer in rows]
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences], device=device)
    spans = [(len(prompt) - 1, len(prompt) - 1 + len(answer or (0,))) for prompt, answer in rows]
    first = min(start for start, _ in spans)
    keep = torch.arange(first, max(stop for _, stop in spans), device=device)
    logits = logits_at(module, keep, input_ids=ids, use_cache=False).float()
    flag_id, bias = flag
    if flag_id is not None:
        logits[..., flag_id] += bias
    log_p = logits.log_softmax(dim=-1)
    results = []
    for i, ((_, answer), (start, stop)) in enumerate(zip(rows, spans, strict=True)):
        of_row = log_p[i, start - first : stop - first]
        if not bool(logits[i, start - first : stop - first].isfinite().all()):
            raise BrokenLogits(NOT_FINITE)
        if answer is not None:
            of_row = of_row.gather(-1, torch.tensor(answer, device=device)[:, None]).T
        results.append(of_row[0].double().cpu().numpy())
    return results
