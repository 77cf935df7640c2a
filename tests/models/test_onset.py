"""How many tokens of an answer come before one of its characters, under templates that trim and under others."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import ScriptedModel, Style, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rfbench.models.encoding import ChatEncoder
from rfbench.models.onset import tokens_before
from rfbench.records import Message

ASKED: list[Message] = [{"role": "user", "content": "Why?"}]
ENCODERS: dict[Style, Any] = {style: ChatEncoder(tiny_tokenizer(style)) for style in ("chatml", "llama3")}


def test_one_byte_a_token() -> None:
    assert [tokens_before(ScriptedModel({}), ASKED, "tea.\n\nbad", at) for at in (0, 1, 4, 6, 8)] == [0, 1, 4, 6, 8]


@pytest.mark.parametrize("style", ENCODERS)
@settings(max_examples=15)
@given(data=st.data())
def test_the_next_token_holds_the_character(style: Style, data: st.DataObject) -> None:
    """Templates cut white space from the end of a text; a token may straddle the character."""
    words = st.sampled_from(["Sure", "the", "answer", "step", "A1", "(x)"])
    between = st.sampled_from([" ", "\n\n", ", ", "\n"])
    answer = data.draw(words) + "".join(data.draw(between) + data.draw(words) for _ in range(4))
    at = data.draw(st.integers(0, len(answer) - 1))
    encoder = ENCODERS[style]
    chat = encoder.encode(ASKED, answer)
    ids = chat.ids[chat.span("prefill").start :]
    n = tokens_before(encoder, ASKED, answer, at)
    assert len(encoder.tokenizer.decode(ids[:n])) <= at < len(encoder.tokenizer.decode(ids[: n + 1]))
