"""Where in the ids of an answer that is given, or forced, a character of its text comes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from rfbench.models.base import ChatModel
from rfbench.records import Message

_OTHERS = ("", "a", "A", "1")
"""How an answer may go on instead: some tokenizers cut a text in one way before a letter and in another elsewhere."""


def tokens_before(model: ChatModel, messages: Sequence[Message], answer: str, at: int) -> int:
    """Tokens of ``answer`` before the one that holds its character ``at``, or straddles it.

    They are those that the answer has in common with texts that are the same up to there and then another: such tokens
    hold nothing behind it, and of several such texts the one that shares most tells how many there are.

    Args:
        model: whose chat template and tokenizer count.
        messages: what is said before the answer.
        answer: how the assistant's turn begins.
        at: a character of it, counted from 0.

    Raises:
        EncodingError: the template cannot carry the conversation.
    """
    chat = model.encode(messages, answer)
    start, before = chat.span("prefill").start, answer[:at]
    others = [before + other for other in _OTHERS if before.strip() and other != answer[at : at + 1]]
    shared = (_n_shared(model.encode(messages, other).ids, chat.ids) for other in others)
    return max(max(shared, default=0) - start, 0)


def _n_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
