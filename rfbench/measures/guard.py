"""The utility guard: what a weight attack has left of the model. An attack that destroys a model proves nothing.

Read at every checkpoint of every weight attack, on fixed answers to benign everyday requests, held out from what
attacks and recipes learn from. One forward pass over 32 short conversations: with the tokenizer of SmolLM2 some
2,400 tokens, of which 1,141 are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rfbench.data.load import Demonstration, load_demonstrations
from rfbench.errors import BrokenLogits, EncodingError, ModelError
from rfbench.models.base import ChatModel, LocalModel, local
from rfbench.records import Behavior

if TYPE_CHECKING:
    from rfbench.models.hf.likelihood import Span

GUARD_VERSION = 1
"""Raised whenever the figures of the guard could change; part of the keys of weight attacks."""
N_ANSWERS = 32


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a model, held against the model before the attack.

    ``perplexity`` of the answers' own text, given no flag: the exponential of the mean over all tokens, infinite where
    the logits are not finite. ``perplexity_ratio`` over that of the untampered model. ``agreement``: share of the
    tokens at which both would choose the same, mean over the answers.
    """

    perplexity: float
    perplexity_ratio: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Guard:
    """The untampered model, as far as it is needed to hold another against it.

    ``spans`` are the conversations as ids, their answers scored; ``nll`` the mean over all tokens, in nats; ``choices``
    the ids that the model would choose, ``(n,)`` for each answer.
    """

    spans: tuple[Span, ...]
    nll: float
    choices: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, model: ChatModel) -> Guard | None:
        """Read the untampered model; ``None`` for a model whose logits are not in this process.

        Raises:
            ModelError: it cannot be given the conversations, or its logits are not finite.
        """
        if not isinstance(model, LocalModel):
            return None
        spans = _spans(model)
        return cls(spans, *_read(model, spans))

    def held_against(self, model: ChatModel) -> Remains:
        """What is left in ``model``.

        Raises:
            ModelError: a conversation does not fit the memory, or the weights are not in this process.
        """
        try:
            nll, choices = _read(local(model), self.spans)
        except BrokenLogits:  # no text has any likelihood, and nothing is chosen
            return Remains(math.inf, math.inf, 0.0)
        same = [float((mine == theirs).mean()) for mine, theirs in zip(choices, self.choices, strict=True)]
        return Remains(_exp(nll), _exp(nll - self.nll), float(np.mean(same)))


def guard_requests() -> tuple[Behavior, ...]:
    """The requests whose answers are read: no weight attack may learn from them."""
    return tuple(answer.behavior for answer in _answers())


@lru_cache
def _answers() -> tuple[Demonstration, ...]:
    benign = [answer for answer in load_demonstrations() if not answer.behavior.is_harmful]
    return tuple(benign[:N_ANSWERS])


def _spans(model: ChatModel) -> tuple[Span, ...]:
    from rfbench.models.hf.likelihood import Span

    spans = []
    for answer in _answers():
        try:
            chat = model.encode([{"role": "user", "content": answer.behavior.request}], answer.response)
        except EncodingError as error:
            raise ModelError(f"{model.name}: utility guard: {answer.behavior.behavior_id}: {error}") from error
        scored = chat.span("prefill")
        spans.append(Span(chat.ids, scored.start, scored.stop))
    return tuple(spans)


def _read(model: LocalModel, spans: Sequence[Span]) -> tuple[float, tuple[npt.NDArray[np.int64], ...]]:
    from rfbench.models.hf.likelihood import nll_and_choices

    nll, choices = zip(*nll_and_choices(model, spans), strict=True)
    return float(np.concatenate(nll).mean()), choices


def _exp(nats: float) -> float:
    """Perplexity, infinite where it is too large for a number."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
