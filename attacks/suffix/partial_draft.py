"""The draft ``glimpse``: a model ranks candidates for itself by a forward pass over a few tokens of the chat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rfbench.attacks.suffix.candidates import Scores
from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import Ids, Layout
from rfbench.errors import AttackError
from rfbench.models.hf.schedule import rows_that_fit

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)

CPU_BATCH = 64
"""Candidates at a time. Each is a handful of tokens: it takes many of them to make a matrix product worthwhile."""

MOST_LOGITS = 2**25
"""Logits held at a time, an eighth of a GiB of them in fp32."""

_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.1
"""How far apart losses may be that should be the same; in 16 bits the second."""

_PADDING = -1
"""In place of a changed position where a row has fewer of them than others."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The current suffix, the target tokens that are recomputed, ascending, and, unless these are all, all logits."""

    suffix: Ids
    wanted: Sequence[int]
    logits: torch.Tensor | None
    flops: float


class PartialDraft:
    """Ranks candidates by approximate losses, from a forward pass over a few tokens of the chat.

    Recomputed are the replaced tokens, and the positions that predict some tokens of the target. Every other token
    keeps the keys and values, and every other target token the logits, that it has with the current suffix, so what a
    replaced token does to the target by way of the tokens between them is left out. The recomputed target tokens are
    those whose logits the loss depends on most at the current suffix: for a cross-entropy, roughly the least likely
    ones. Likely target tokens stay likely with most candidates.

    Args:
        evaluator: of the model; its objective is what is minimised.
        n_target: target tokens that are recomputed; ``None`` for all.
        batch: candidates at a time, halved while memory runs out; by default :data:`CPU_BATCH` on CPUs and
            :data:`rfbench.attacks.suffix.evaluator.DEVICE_BATCH` elsewhere, fewer where a chat or a vocabulary is
            large.

    Not every model bears that: see :meth:`why_not`.
    """

    def __init__(self, evaluator: Evaluator, n_target: int | None = None, *, batch: int | None = None) -> None:
        self._evaluator = evaluator
        self._has_said_why = False
        self._n_target = n_target
        self._sizer = evaluator.sizer(batch, CPU_BATCH)
        self._most = self._sizer.limit

    def serves(self, layout: Layout, name: str) -> bool:
        """Whether candidates of this chat can be ranked so; the first time that they cannot, one line says why.

        Args:
            layout: a chat.
            name: what the model is called in that line.

        Raises:
            AttackError: as for :meth:`why_not`.
        """
        reason = self.why_not(layout)
        if reason and not self._has_said_why:
            logger.warning("%s: no draft glimpse: %s; all candidates are evaluated exactly", name, reason)
            self._has_said_why = True
        return not reason

    def why_not(self, layout: Layout) -> str:
        """Why candidates of this chat cannot be ranked so, in one line; empty where they can.

        What the model is known for comes first. Then tokens of the suffix are replaced by themselves, which must give
        the loss of one whole pass: attention may count distance by place in the row, or take no such mask.

        Raises:
            AttackError: memory does not suffice for one sequence.
        """
        evaluator, length = self._evaluator, len(layout.fill(layout.suffix))
        if not evaluator.shares_prefixes:
            return "the model's past is not keys and values by position"
        if evaluator.reach is not None and length > evaluator.reach:
            return f"the chat is longer than the {evaluator.reach} tokens that attention reaches"
        limits = [limit for limit in (evaluator.ways.between, evaluator.ways.border) if limit is not None]
        if limits and length > min(limits):
            long = f"in chats of more than {min(limits)} tokens " if min(limits) else ""
            return f"{long}attention depends on padding or on the chat's length, not on positions alone"
        evaluator.rewind(layout)
        current = np.array(layout.suffix)
        everywhere = np.arange(len(current))
        once = np.where(everywhere == 0, 0, _PADDING)
        changes = np.stack([everywhere, once]), np.tile(current, (2, 1))
        try:
            ((found, wanted),) = evaluator.batches(
                [layout.suffix],
                lambda batch: (
                    self._score_batch(layout, [current] * 2, self._scope(layout, batch[0]), changes).losses,
                    evaluator.score(layout, current[None], current).losses[0],
                ),
            )
        except AttackError:
            raise
        except Exception as error:  # attention does with masks and positions what it likes
            return f"the model does not bear it ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        rounding = _ROUNDING if evaluator.module.dtype == torch.float32 else _COARSE_ROUNDING
        if not np.allclose(found, wanted, rtol=rounding, atol=rounding):
            return f"tokens that are replaced by themselves move the loss from {wanted:.4g} to {found.max():.4g}"
        return ""

    def score(self, layout: Layout, candidates: IntArray, current: IntArray) -> Scores:
        """Approximate losses of candidates ``(c, s)``, variations of ``current`` ``(s,)``; see :meth:`Evaluator.score`.

        Raises:
            AttackError: memory does not suffice for one candidate.
        """
        evaluator, suffix = self._evaluator, tuple(current.tolist())
        length = len(layout.fill(suffix))
        evaluator.rewind(layout)
        (scope,) = evaluator.batches([suffix], lambda batch: self._scope(layout, batch[0]))
        rows = min(
            rows_that_fit(evaluator.ways, evaluator.device, length),
            max(1, MOST_LOGITS // (len(scope.wanted) * len(evaluator.module.get_input_embeddings().weight))),
        )
        self._sizer.limit = min(self._most, rows)  # or it would grow beyond them again
        self._sizer.size = min(self._sizer.size, self._sizer.limit)
        parts = evaluator.batches(
            list(candidates),
            lambda batch: self._score_batch(layout, batch, scope, _new_tokens(batch, current)),
            self._sizer,
        )
        losses, matched, flops = zip(*((part.losses, part.matched, part.flops) for part in parts), strict=True)
        return Scores(np.concatenate(losses), np.concatenate(matched), scope.flops + sum(flops))

    def _scope(self, layout: Layout, suffix: Ids) -> _Scope:
        n_all = len(layout.target)
        if self._n_target is None or self._n_target >= n_all:
            return _Scope(suffix, range(n_all), None, 0.0)
        logits, weights, flops = self._evaluator.at_target(layout, suffix)
        most = weights.argsort(descending=True, stable=True)[: self._n_target]
        return _Scope(suffix, sorted(most.tolist()), logits, flops)

    @torch.no_grad()
    def _score_batch(
        self, layout: Layout, candidates: Sequence[IntArray], scope: _Scope, changes: tuple[IntArray, IntArray]
    ) -> Scores:
        evaluator, start = self._evaluator, len(layout.before)
        # Nothing follows the last token of the target, which therefore is no input.
        held = layout.fill(scope.suffix)[:-1]
        first = len(held) - len(layout.target)  # the position that predicts the first token of the target
        places = [first + i for i in scope.wanted]
        changed, new = changes
        # Some are computed already, with the candidate's own id.
        changed = np.where(np.isin(changed + start, places), _PADDING, changed)
        rows: list[Ids] = []
        for tokens, candidate in zip(new, candidates, strict=True):
            ids = layout.fill(candidate.tolist())
            rows.append((*held, *tokens.tolist(), *(ids[place] for place in places)))
        inputs, cache, shared, n_computed = evaluator.share(rows, len(held), start)
        assert shared == len(held)
        mask, positions = _attention(changed, start, len(held), places)
        dtype = evaluator.module.dtype
        logits = evaluator.logits(
            torch.arange(inputs.shape[1] - len(places), inputs.shape[1], device=inputs.device),
            input_ids=inputs,
            past_key_values=cache,
            use_cache=True,
            position_ids=positions.to(inputs.device),
            attention_mask=torch.where(mask, 0.0, torch.finfo(dtype).min).to(inputs.device, dtype)[:, None],
        )
        losses = self._losses(logits, torch.tensor([layout.target], device=inputs.device), scope)
        flops = evaluator.costs.forward(n_computed + inputs.numel(), logits.shape[0] * logits.shape[1])
        return Scores(losses.double().cpu().numpy(), np.zeros(len(rows), dtype=np.bool_), flops)

    def _losses(self, logits: torch.Tensor, targets: torch.Tensor, scope: _Scope) -> torch.Tensor:
        """Losses ``(b,)`` of the whole target ``(1, t)`` from the logits ``(b, n, v)`` of the recomputed tokens."""
        if scope.logits is None:
            return self._evaluator.objective(logits, targets.expand(len(logits), -1))
        losses = []
        for some in torch.split(logits, max(1, MOST_LOGITS // scope.logits.numel())):
            # An objective may sum over positions, or read the first of them: it needs all.
            whole = scope.logits.repeat(len(some), 1, 1)
            whole[:, list(scope.wanted)] = some
            losses.append(self._evaluator.objective(whole, targets.expand(len(some), -1)))
        return torch.cat(losses)


def _new_tokens(candidates: Sequence[npt.NDArray[np.int64]], current: IntArray) -> tuple[IntArray, IntArray]:
    """Where candidates differ from ``current`` ``(s,)`` and by which ids, ``(b, m)`` each, ascending.

    Rows with fewer changes than others are padded with position -1 and id 0.
    """
    places = [np.flatnonzero(candidate != current) for candidate in candidates]
    shape = (len(places), max(map(len, places)))
    changed, new = np.full(shape, _PADDING, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (where, candidate) in enumerate(zip(places, candidates, strict=True)):
        changed[row, : len(where)], new[row, : len(where)] = where, candidate[where]
    return changed, new


def _attention(changed: IntArray, start: int, n_past: int, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention between the inputs (new tokens, then those at ``places``) and everything held; their positions.

    Args:
        changed: positions of the new tokens in the suffix, -1 for padding, ``(b, m)``.
        start: where the suffix begins.
        n_past: tokens whose keys and values are held.
        places: positions of the other inputs, the same in every row.

    Returns:
        ``(b, i, n_past + i)`` for ``i`` inputs, true where the row's input may attend; ``(b, i)``.
    """
    b, m = changed.shape
    real = torch.from_numpy(changed != _PADDING)
    rest = torch.tensor(places, dtype=torch.int64).expand(b, len(places))
    positions = torch.cat([torch.from_numpy(changed).clamp(min=0) + start, rest], dim=1)
    computed = torch.cat([real, torch.ones_like(rest, dtype=torch.bool)], dim=1)
    past = torch.arange(n_past).expand(b, n_past)
    # The cached keys and values of a recomputed position are masked.
    replaced = ((past[:, :, None] == positions[:, None, :]) & computed[:, None, :]).any(dim=2)
    sources = torch.cat([~replaced, computed], dim=1)
    stands = torch.cat([past, positions], dim=1)
    mask = (stands[:, None, :] <= positions[:, :, None]) & sources[:, None, :]
    # Padding attends to itself, so that its softmax is defined; no token attends to padding.
    padding = torch.zeros_like(mask)
    padding[:, :m, n_past : n_past + m] = torch.diag_embed(~real)
    return mask | padding, positions
