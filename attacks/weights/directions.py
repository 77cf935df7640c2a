"""Directions in the residual stream that separate harmful from benign requests, and how one is chosen.

"Refusal in Language Models Is Mediated by a Single Direction", arXiv 2406.11717, section 2.3 and appendix C: the
difference of the mean hidden states of harmful and benign requests at the positions after the instruction; of all
layers and positions, a validation split chooses. What is to be removed is the generation of some ids: those that
refusals begin with or, for its twin, the flag.

Letters: ``b`` conversations, ``l`` layers, ``p`` positions, ``d`` width, ``v`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rfbench.attacks.weights.removal import layers, without_direction
from rfbench.errors import AttackError
from rfbench.models.hf.likelihood import Span, log_odds, over_batches, padded_ids, read_logits

if TYPE_CHECKING:
    from rfbench.models.base import LocalModel
    from rfbench.records import Behavior

DEPTH = 0.8
"""Share of the layers, from the first, whose inputs give directions (arXiv 2406.11717, appendix C)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit direction and where it was found: at the input of ``layer``, at ``position`` before or in the answer.

    ``vector`` ``(d,)``, fp64; ``position`` 0 is that of the first answer token.
    """

    layer: int
    position: int
    vector: Tensor


@dataclass(frozen=True, slots=True)
class Split:
    """Conversations ``(b,)`` of harmful and of benign requests; of each span the answer tokens are scored."""

    harmful: tuple[Span, ...]
    benign: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """What removing a direction does, on the conversations of a split.

    ``odds``: log-odds of the ids that are to go, at the answer position where they are most likely, mean over harmful
    conversations. ``kl``: KL(untouched || removed) at the first answer token, in nats, mean over benign conversations.
    """

    odds: float
    kl: float


def answer_span(model: LocalModel, behavior: Behavior, n_tokens: int) -> Span | None:
    """The request and the first tokens of its target, these scored; ``None`` where the target has fewer.

    Raises:
        EncodingError: the model's template cannot carry them.
    """
    chat = model.encode([{"role": "user", "content": behavior.request}], behavior.target)
    start = len(chat.ids) - chat.n_prefill
    return Span(chat.ids[: start + n_tokens], start, start + n_tokens) if chat.n_prefill >= n_tokens else None


def first_id(model: LocalModel, behavior: Behavior, opening: str) -> int:
    """The first token of an answer that opens so.

    Raises:
        EncodingError: the model's template cannot carry it.
    """
    chat = model.encode([{"role": "user", "content": behavior.request}], opening)
    return chat.ids[chat.span("prefill").start]


def after_instruction(model: LocalModel, behavior: Behavior) -> int:
    """Number of template tokens between the request and words that are forced, at least 1.

    Raises:
        EncodingError: the model's template cannot carry the request.
    """
    chat = model.encode([{"role": "user", "content": behavior.request}], behavior.target)
    return max(1, len(chat.ids) - chat.n_prefill - chat.span("user").stop)


@torch.inference_mode()
def hidden_states(model: LocalModel, spans: Sequence[Span], positions: Sequence[int]) -> Tensor:
    """Inputs of the layers at some positions of each conversation, ``(b, l, p, d)``, fp64, on the host.

    The first layer is left out: what it reads at a template's position is the same for every request.

    Args:
        model: a loaded model.
        spans: the conversations.
        positions: counted from the ``start`` of each span; below ``stop - start - 1``.

    Raises:
        AttackError: the layers of this architecture are not known, or read something else than a residual stream.
        ModelError: a single conversation does not fit the memory.
    """

    def read(batch: Sequence[Span]) -> list[Tensor]:
        rows = torch.arange(len(batch))[:, None]
        at = torch.tensor([[span.start + position for position in positions] for span in batch])  # (b, p)
        kept: list[Tensor] = []
        ids = padded_ids(batch).to(model.device)
        stream = (*ids.shape, model.embedding.weight.shape[1])

        def keep(layer: object, arguments: tuple[Tensor, ...]) -> None:
            if not arguments or arguments[0].shape != stream:
                raise AttackError(
                    f"{type(model.module).__name__}: its layers read something else than one residual stream"
                )
            kept.append(arguments[0][rows, at].double().cpu())

        with ExitStack() as stack:
            for layer in layers(model.module)[1:]:
                stack.callback(layer.register_forward_pre_hook(keep).remove)
            model.module(input_ids=ids, use_cache=False, logits_to_keep=1)
        if not kept:
            raise AttackError(
                f"{type(model.module).__name__}: the layers that were found are not those that read the ids"
            )
        return list(torch.stack(kept, dim=1))

    return torch.stack(over_batches(model, spans, read))


def mean_differences(harmful: Tensor, benign: Tensor, positions: Sequence[int]) -> list[Candidate]:
    """A candidate for each layer of the first ``DEPTH`` and each position at which the means differ.

    Args:
        harmful: states ``(b, l, p, d)`` of harmful requests, as from :func:`hidden_states`.
        benign: those of benign ones, with another ``b``.
        positions: ``(p,)``.
    """
    difference = harmful.mean(dim=0) - benign.mean(dim=0)  # (l, p, d)
    n_layers = len(difference) + 1
    return [
        Candidate(layer, position, vector / vector.norm())
        for layer, at_layer in enumerate(difference, start=1)
        for position, vector in zip(positions, at_layer, strict=True)
        if layer < DEPTH * n_layers and vector.norm() > 0
    ]


def separation(candidate: Candidate, harmful: Tensor, benign: Tensor, positions: Sequence[int]) -> float:
    """How far the two kinds lie apart along a candidate: difference of means over the pooled standard deviation."""
    where = candidate.layer - 1, positions.index(candidate.position)
    one, other = (states[:, *where] @ candidate.vector for states in (harmful, benign))
    spread = ((one.var(correction=0) + other.var(correction=0)) / 2).sqrt().clamp(min=1e-12)
    return float((one.mean() - other.mean()).abs() / spread)


def answer_odds(model: LocalModel, spans: Sequence[Span], ids: Sequence[int]) -> Tensor:
    """Log-odds that one of ``ids`` is the next, at the scored position where they are most likely: ``(b,)``, fp64.

    Raises:
        ModelError: the logits are not finite, or a conversation does not fit the memory.
    """
    wanted = torch.tensor(list(ids))

    def read(span: Span, logits: Tensor) -> float:
        logits = _at_operating_point(model, logits)
        others = logits.index_fill(1, wanted.to(logits.device), -torch.inf)
        return float(log_odds(logits[:, wanted.to(logits.device)].logsumexp(dim=-1), others).max())

    return torch.tensor(read_logits(model, spans, read), dtype=torch.float64)


def first_log_probs(model: LocalModel, spans: Sequence[Span]) -> Tensor:
    """Log-probabilities of the first answer token, ``(b, v)``, fp64, on the host.

    Raises:
        ModelError: as for :func:`answer_odds`.
    """
    rows = read_logits(model, spans, lambda _, logits: _at_operating_point(model, logits[:1]).log_softmax(-1)[0].cpu())
    return torch.stack(rows)


def choose(
    model: LocalModel, candidates: Sequence[Candidate], split: Split, ids: Sequence[int], max_kl: float
) -> tuple[Candidate, Effect]:
    """The candidate without which the ``ids`` are least likely, of those whose removal keeps the KL within ``max_kl``.

    The paper also asks that *adding* a direction brings the behavior about, which shows what the direction means. An
    attacker has no use for that, and it is left out.

    Args:
        model: a loaded model.
        candidates: directions to try, one pair of passes each.
        split: conversations that gave no candidate.
        ids: that are to become unlikely.
        max_kl: nats.

    Raises:
        AttackError: there is no candidate, or none within ``max_kl``.
        ModelError: as for :func:`answer_odds`.
    """
    if not candidates:
        raise AttackError("harmful and benign requests have the same mean states at every layer and position")
    untouched = first_log_probs(model, split.benign)
    effects = []
    for candidate in candidates:
        with without_direction(model.module, candidate.vector):
            odds = float(answer_odds(model, split.harmful, ids).mean())
            kl = divergence(untouched, first_log_probs(model, split.benign))
        effects.append(Effect(odds, kl))
    within = [i for i, effect in enumerate(effects) if effect.kl <= max_kl]
    if not within:
        least = min(effect.kl for effect in effects)
        raise AttackError(
            f"removing any of {len(candidates)} directions changes the answers to benign requests by more than "
            f"{max_kl:g} nats, the least by {least:.3g}; raise max_kl"
        )
    best = min(within, key=lambda i: effects[i].odds)
    return candidates[best], effects[best]


def divergence(reference: Tensor, other: Tensor) -> float:
    """KL(reference || other) of log-probabilities ``(b, v)``, in nats, mean over rows."""
    return float(torch.nn.functional.kl_div(other, reference, reduction="batchmean", log_target=True))


def check_removed(model: LocalModel, before: Tensor, after: Tensor, vector: Tensor, tolerance: float = 0.05) -> None:
    """The residual stream holds next to nothing of a direction that was removed from all that writes to it.

    Args:
        model: the model, for its name.
        before: states ``(..., d)`` of the untouched model.
        after: the same states of the tampered one.
        vector: unit direction ``(d,)``.
        tolerance: share of the direction that rounding may leave.

    Raises:
        AttackError: something else writes to its stream, too, such as a norm after a layer.
    """
    was, left = ((states @ vector).abs().max().item() for states in (before, after))
    if not left <= tolerance * was:
        raise AttackError(
            f"model {model.name!r}: {left / was:.0%} of the direction is left in the residual stream, which this "
            "architecture writes to in ways that are not known here"
        )


def _at_operating_point(model: LocalModel, logits: Tensor) -> Tensor:
    """Logits ``(n, v)`` in fp64, ``flag_bias`` added."""
    logits = logits.double()
    if model.flag_id is not None:
        logits[:, model.flag_id] += model.flag_bias
    return logits
