"""Conversations with known truth: what each answer of the assistant holds, and where harm begins in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from rfbench.records import ROLES, Message, Role

AnswerLabel = Literal["harmful", "refusal", "safe"]
RequestKind = Literal["harmful", "twin", "neutral", "benign", "unknown"]

ANSWER_LABELS: tuple[AnswerLabel, ...] = get_args(AnswerLabel)
REQUEST_KINDS: tuple[RequestKind, ...] = get_args(RequestKind)
"""``twin``: the benign counterpart of a harmful request. ``neutral``: it asks for no topic ("Please go on.").
``benign``: any other harmless one."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; those of the assistant have a label.

    ``onset`` is the character of a harmful answer where harm begins, counted from 0, ``None`` where nobody knows.

    Raises:
        ValueError: an unknown role or label, an answer without a label or without text, a label or an onset where none
            belongs, an onset that is no character of the text.
    """

    role: Role
    content: str
    label: AnswerLabel | None = field(default=None, kw_only=True)
    onset: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r}; use {', '.join(ROLES)}")
        if self.role != "assistant":
            if self.label is not None or self.onset is not None:
                raise ValueError(f"a {self.role} turn has no label and no onset: only answers of the assistant have")
            return
        if self.label is None:
            raise ValueError(f"an assistant turn without a label; use {', '.join(ANSWER_LABELS)}")
        if self.label not in ANSWER_LABELS:
            raise ValueError(f"unknown answer label {self.label!r}; use {', '.join(ANSWER_LABELS)}")
        if not self.content.strip():
            raise ValueError("an answer without tokens: its text is empty; leave the conversation out")
        if self.onset is not None and self.label != "harmful":
            raise ValueError(f"an onset in a {self.label} answer: only harmful ones have a place where harm begins")
        if self.onset is not None and not 0 <= self.onset < len(self.content):
            raise ValueError(f"onset {self.onset} beyond the text of {len(self.content)} characters; count from 0")

    @property
    def message(self) -> Message:
        """The turn as models are sent it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled answer of a conversation: ``number`` counts the assistant's turns from 1."""

    number: int
    before: tuple[Message, ...]
    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation whose answers are given, each with a label.

    ``request_kind`` is the ground truth of what is asked. ``group`` names what belongs together: answers to the same
    request, a request and its twin. Draws take groups whole; a conversation without one is a group of its own.

    Raises:
        ValueError: no turns, or a last one that is not the assistant's; an unknown kind of request.
    """

    conversation_id: str
    turns: tuple[Turn, ...]
    request_kind: RequestKind = "unknown"
    group: str = ""

    def __post_init__(self) -> None:
        if self.request_kind not in REQUEST_KINDS:
            raise ValueError(f"unknown kind of request {self.request_kind!r}; use {', '.join(REQUEST_KINDS)}")
        if not self.turns:
            raise ValueError("a conversation without turns")
        if self.turns[-1].role != "assistant":
            raise ValueError(f"the conversation ends with a {self.turns[-1].role} turn; it must end with an answer")
        if not self.group:
            object.__setattr__(self, "group", self.conversation_id)

    @property
    def answers(self) -> Iterator[Answer]:
        """The assistant's turns in order, each with all that was said before it."""
        before: list[Message] = []
        number = 0
        for turn in self.turns:
            if turn.role == "assistant":
                number += 1
                yield Answer(number, tuple(before), turn)
            before.append(turn.message)


def exchange(
    conversation_id: str,
    request: str,
    answer: str,
    label: AnswerLabel,
    *,
    request_kind: RequestKind,
    group: str = "",
    onset: int | None = None,
) -> Conversation:
    """A conversation of one request and one answer.

    Raises:
        ValueError: as for :class:`Turn` and :class:`Conversation`.
    """
    turns = (Turn("user", request), Turn("assistant", answer, label=label, onset=onset))
    return Conversation(conversation_id=conversation_id, turns=turns, request_kind=request_kind, group=group)
