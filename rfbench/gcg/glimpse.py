"""A model as its own draft: what a changed suffix does at once, without what it does by way of later suffix tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from rfbench.errors import AttackError
from rfbench.gcg.evaluator import Evaluator, Scores
from rfbench.gcg.layout import Ids, Layout

if TYPE_CHECKING:
    import numpy.typing as npt


class Glimpse:
    """Ranks candidates by their losses, as if later suffix tokens had not seen the change.

    The suffix tokens behind a replaced one keep the keys and values that they have in the current suffix: computed
    are the new tokens, the template behind the suffix, and the target. What a new token does by way of later suffix
    tokens is not seen. A candidate that changes the last suffix token alone is seen as it is.

    Args:
        evaluator: of the model; its objective is what is minimised.
        first: target tokens that are looked at; ``None`` for all. Early in a search candidates differ most in whether
            the answer begins as the target does, so that a few tokens rank them nearly as well; later they do not.

    Raises:
        AttackError: the model's past is not keys and values by position.
    """

    def __init__(self, evaluator: Evaluator, first: int | None = None) -> None:
        if not evaluator.shares_prefixes:
            raise AttackError("draft glimpse needs a model whose past is keys and values by position; take draft int8")
        self._evaluator = evaluator
        self._first = first

    def score(self, layout: Layout, candidates: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> Scores:
        """Guess the losses of candidates ``(c, s)``, variations of ``current`` ``(s,)``; see :meth:`Evaluator.score`.

        Raises:
            AttackError: memory does not suffice for one candidate, or attention does not reach over the whole chat.
        """
        short = replace(layout, target=layout.target[: self._first])
        if self._evaluator.reach is not None and len(short.fill(short.suffix)) > self._evaluator.reach:
            raise AttackError(
                f"draft glimpse: the chat is longer than the {self._evaluator.reach} tokens that attention reaches; "
                "take draft int8"
            )
        parts = self._evaluator.batches(list(candidates), lambda batch: self._score_batch(short, batch, current))
        losses, matched, flops = zip(*((part.losses, part.matched, part.flops) for part in parts), strict=True)
        return Scores(np.concatenate(losses), np.concatenate(matched), sum(flops))

    @torch.no_grad()
    def _score_batch(
        self, layout: Layout, candidates: Sequence[npt.NDArray[np.int64]], current: npt.NDArray[np.int64]
    ) -> Scores:
        evaluator, n_target = self._evaluator, len(layout.target)
        # The last token before the target gives the first logits: it must be computed.
        n_past = len(layout.before) + len(current) - (0 if layout.after else 1)
        held = layout.fill(current.tolist())[:n_past]
        changed, new = _new_tokens(candidates, current[: n_past - len(layout.before)])
        rows: list[Ids] = [
            (*held, *tokens.tolist(), *layout.fill(candidate.tolist())[n_past:-1])
            for tokens, candidate in zip(new, candidates, strict=True)
        ]
        ids, cache, shared, n_computed = evaluator.share(rows, n_past, len(layout.before))
        assert shared == n_past
        mask, positions = _who_sees_whom(changed, len(layout.before), n_past, ids.shape[1])
        keep = torch.arange(ids.shape[1] - n_target, ids.shape[1], device=ids.device)
        dtype = evaluator.module.dtype
        logits = evaluator.logits(
            keep,
            input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            position_ids=positions.to(ids.device),
            attention_mask=torch.where(mask, 0.0, torch.finfo(dtype).min).to(ids.device, dtype)[:, None],
        )
        targets = torch.tensor([layout.target], device=ids.device).expand(len(rows), n_target)
        losses = evaluator.objective(logits, targets).double().cpu().numpy()
        flops = evaluator.costs.forward(n_computed + ids.numel(), targets.numel())
        return Scores(losses, np.zeros(len(rows), dtype=np.bool_), flops)


def _new_tokens(
    candidates: Sequence[npt.NDArray[np.int64]], current: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where candidates differ from ``current`` ``(s,)`` and by which ids, ``(b, m)`` each, ascending.

    Rows with fewer changes than others are filled up with position -1 and id 0.
    """
    places = [np.flatnonzero(candidate[: len(current)] != current) for candidate in candidates]
    shape = (len(places), max(map(len, places)))
    changed, new = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (where, candidate) in enumerate(zip(places, candidates, strict=True)):
        changed[row, : len(where)], new[row, : len(where)] = where, candidate[where]
    return changed, new


def _who_sees_whom(
    changed: npt.NDArray[np.int64], start: int, n_past: int, n_inputs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention between the inputs (new tokens, then the rest) and everything before them; their positions.

    Args:
        changed: places in the suffix that the new tokens take, -1 for filling, ``(b, m)``.
        start: where the suffix begins.
        n_past: tokens whose keys and values are kept.
        n_inputs: tokens per row that are computed.

    Returns:
        ``(b, n_inputs, n_past + n_inputs)``, true where the row's token may look; ``(b, n_inputs)``.
    """
    b, m = changed.shape
    real = torch.from_numpy(changed >= 0)
    where = torch.from_numpy(changed) + start
    rest = torch.arange(n_past, n_past + n_inputs - m).expand(b, n_inputs - m)
    positions = torch.cat([where.clamp(min=0), rest], dim=1)
    past = torch.arange(n_past).expand(b, n_past)
    # Of every place that a new token takes, the old token is out of sight.
    replaced = ((past[:, :, None] == where[:, None, :]) & real[:, None, :]).any(dim=2)
    places = torch.cat([past, positions], dim=1)
    sources = torch.cat([~replaced, real, torch.ones_like(rest, dtype=torch.bool)], dim=1)
    mask = (places[:, None, :] <= positions[:, :, None]) & sources[:, None, :]
    # A filling sees itself, so that its softmax is defined; nobody sees it.
    filling = torch.zeros_like(mask)
    filling[:, :m, n_past : n_past + m] = torch.diag_embed(~real)
    return mask | filling, positions
