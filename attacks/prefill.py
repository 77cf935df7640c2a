"""A forced start of the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import commonprefix
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from rfbench.attack import PromptAttack
from rfbench.errors import AttackError
from rfbench.models.base import Capability, ChatModel
from rfbench.records import Attempt, Behavior

if TYPE_CHECKING:
    import numpy as np


class Prefill(PromptAttack):
    """Force the first words of the answer: the model continues an answer that has already begun.

    Refusal training that shapes only the first few tokens fails here, "Safety Alignment Should Be
    Made More Than Just a Few Tokens Deep", https://arxiv.org/abs/2406.05946; used against deployed models
    in https://arxiv.org/abs/2404.02151. Without a field set, the whole target of
    the behavior is prefilled; a target shorter than ``words`` or ``tokens`` is prefilled whole.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PREFILL})
    source: ClassVar[str] = "https://arxiv.org/abs/2406.05946"

    text: str | None = Field(
        default=None,
        min_length=1,
        description="this string for every behavior, in place of its target (arXiv 2404.02151)",
    )
    words: int | None = Field(
        default=None, ge=1, description="number of words of the target to keep, white space between them (rfbench)"
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="number of tokens of the target to keep, counted by the model's tokenizer (arXiv 2406.05946)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("text", "words", "tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        return self

    def craft(self, model: ChatModel, behavior: Behavior, rng: np.random.Generator) -> Iterator[Attempt]:
        """Yield the one attempt.

        Raises:
            AttackError: the behavior has no target, or not one whole character of it is kept.
        """
        yield Attempt(
            behavior.behavior_id,
            messages=[{"role": "user", "content": behavior.request}],
            prefill=self.text or self._start_of_target(model, behavior),
        )

    def _start_of_target(self, model: ChatModel, behavior: Behavior) -> str:
        if not behavior.target.strip():
            raise AttackError(
                f"behavior {behavior.behavior_id!r} has no target to prefill; add a target column to its "
                "dataset, or give the attack a text"
            )
        if self.words is not None:
            return first_words(behavior.target, self.words)
        if self.tokens is not None:
            ids = model.tokenizer.encode(behavior.target, add_special_tokens=False)[: self.tokens]
            # The cut may fall inside a character, which then decodes to a replacement character. These are no paths:
            # character by character is what is wanted.
            start = commonprefix([model.tokenizer.decode(ids), behavior.target])  # noqa: RUF071
            if not start:
                raise AttackError(
                    f"behavior {behavior.behavior_id!r}: the first {self.tokens} tokens of its target hold no "
                    "whole character; raise tokens, or use words"
                )
            return start
        return behavior.target


def first_words(text: str, n: int) -> str:
    """The first ``n`` words of ``text``, white space between them as it was, or all there are."""
    match = re.match(rf"(?:\s*\S+){{1,{n}}}", text)
    return match.group() if match else ""
