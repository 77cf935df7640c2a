"""Conversations with given answers: what they hold, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from rfbench.data.conversations import Conversation, Turn, exchange

ASKED = Turn("user", "Why?")


def test_each_answer_stands_after_all_that_was_said_before_it() -> None:
    turns = (
        Turn("system", "Be brief."),
        ASKED,
        Turn("assistant", "Because.", label="safe"),
        Turn("user", "And how?"),
        Turn("assistant", "So, and then so.", label="harmful", onset=4),
    )
    conversation = Conversation(conversation_id="c", turns=turns)
    first, second = conversation.answers
    assert (first.number, first.turn.content, len(first.before)) == (1, "Because.", 2)
    assert [message["content"] for message in second.before] == ["Be brief.", "Why?", "Because.", "And how?"]
    assert (second.number, second.turn.onset, conversation.group) == (2, 4, "c")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("assistant", "x", "bad"), "unknown answer label 'bad'; use harmful, refusal, safe"),
        (("assistant", "x", None), "an assistant turn without a label; use harmful, refusal, safe"),
        (("assistant", " \n", "safe"), "an answer without tokens: its text is empty"),
        (("assistant", "four", "harmful", 4), "onset 4 beyond the text of 4 characters; count from 0"),
        (("assistant", "four", "harmful", -1), "onset -1 beyond the text"),
        (("assistant", "four", "safe", 1), "an onset in a safe answer: only harmful ones"),
        (("user", "x", "safe"), "a user turn has no label and no onset"),
        (("robot", "x"), "unknown role 'robot'; use system, user, assistant"),
    ],
)
def test_what_a_turn_refuses(arguments: tuple[Any, ...], problem: str) -> None:
    role, content, label, onset = (*arguments, None, None)[:4]
    with pytest.raises(ValueError, match=problem):
        Turn(role, content, label=label, onset=onset)


def test_what_a_conversation_refuses() -> None:
    answered = exchange("c", "Why?", "So.", "safe", request_kind="twin").turns
    for turns, problem in (((), "without turns"), ((*answered, ASKED), "ends with a user turn; it must end with an")):
        with pytest.raises(ValueError, match=problem):
            Conversation(conversation_id="c", turns=turns)
    kind: Any = "odd"
    with pytest.raises(ValueError, match="unknown kind of request 'odd'; use harmful, twin, neutral, benign, unknown"):
        Conversation(conversation_id="c", turns=answered, request_kind=kind)
