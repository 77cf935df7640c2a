"""Thoughts told from answers by ids: every form, spelled out and as tokens, opened by the template and by the model."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, Literal

import pytest
from chat_styles import STYLES, Style, build_tokenizer, tokenizer_of
from doubles import CHATML, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from rfbench.models.encoding import ChatEncoder
from rfbench.models.thinking import ThoughtReader
from rfbench.scoring.thoughts import FORMS

FORM = {form.name: form for form in FORMS}
CLOSING = {
    **{form.name: form.marks[1] for form in FORMS},
    "harmony": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "solar": "<|end|><|begin|>assistant<|content|>",
}
TURN = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
HOW = ("tokens", "text", "metaspace")


@cache
def reader_of(name: str, how: Literal["tokens", "text", "metaspace"]) -> tuple[Any, ThoughtReader]:
    """A tokenizer that holds the marks of a form as tokens, or that spells them; its template writes them."""
    form = FORM[name]
    marks = () if how == "text" else tuple(dict.fromkeys((*form.marks, *form.inner)))
    spaces: Any = "metaspace" if how == "metaspace" else "bytes"
    template = TURN + "{{ '" + form.lead.replace("\n", "\\n") + "' if think }}{# " + " ".join(form.marks) + " #}"
    tokenizer = build_tokenizer(Style(template, ("<|im_start|>", "<|im_end|>"), marks, spaces=spaces))
    return tokenizer, ThoughtReader(tokenizer, template)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("name", "how"), list(product(FORM, HOW)))
def test_every_form(name: str, how: Any) -> None:
    tokenizer, reader = reader_of(name, how)
    assert reader.thinks
    assert name in reader.names
    thought = f"{FORM[name].lead}I cannot help with that. Or can I?{CLOSING[name]}\n\n"
    ids, end = ids_of(tokenizer, thought), ids_of(tokenizer, thought + "First, gather the materials.")
    whole = reader.read(end)
    assert not whole.inside
    assert whole.spans == ((0, whole.answer_start),)
    said = tokenizer.decode(end[whole.answer_start :], skip_special_tokens=False)
    assert said.strip() == "First, gather the materials."
    # While the answer has not begun, whatever has been generated.
    for n in range(1, len(ids)):
        part = reader.read(ids[:n])
        assert part.answer_start is None or how != "tokens", n
    cut = reader.read(ids_of(tokenizer, f"{FORM[name].lead}I cannot help with that, as"))
    assert cut.inside
    assert cut.answer_start is None
    assert cut.n_thought == cut.n_ids


@pytest.mark.parametrize(("name", "how"), list(product(FORM, HOW)))
def test_every_form_opened_by_the_template(name: str, how: Any) -> None:
    tokenizer, reader = reader_of(name, how)
    opened = reader.open_after(ids_of(tokenizer, f"<|im_end|>{FORM[name].lead}"))
    assert opened is not None
    assert opened.form.name == name
    closed = f"<|im_end|>{FORM[name].lead}{CLOSING[name]}"
    assert reader.open_after(ids_of(tokenizer, closed)) is None
    assert reader.open_after(ids_of(tokenizer, "<|im_end|>")) is None
    cut = reader.read(ids_of(tokenizer, "I cannot help with that"), opened)
    assert (cut.answer_start, cut.inside) == (None, True)
    done = ids_of(tokenizer, f"I cannot help with that{CLOSING[name]}\nSure, here is")
    read = reader.read(done, opened)
    assert tokenizer.decode(done[read.answer_start :]).strip() == "Sure, here is"
    assert read.n_thought == read.answer_start


@pytest.mark.parametrize(("name", "how"), list(product(FORM, HOW)))
def test_a_count_while_it_grows_is_that_of_the_whole(name: str, how: Any) -> None:
    tokenizer, reader = reader_of(name, how)
    text = f"{FORM[name].lead}Hm, so > that ]{CLOSING[name]}\n\nSure, here is. {FORM[name].lead}Again?{CLOSING[name]} I"
    for opened, start in ((None, text), (reader.open_after(ids_of(tokenizer, FORM[name].lead)), text[3:])):
        meter = reader.meter(opened)
        ids = ids_of(tokenizer, start)
        for n, token in enumerate(ids, 1):
            meter.feed(token)
            assert meter.n_answer + meter.n_thought == n
        whole = reader.read(ids, opened)
        assert (meter.n_thought, meter.inside) == (whole.n_thought, whole.inside)


def test_a_mark_that_is_spelled_out_is_none_where_it_is_a_token() -> None:
    tokenizer, reader = reader_of("think", "tokens")
    spelled = [i for piece in ("</th", "ink>") for i in ids_of(tokenizer, piece)]
    close = tokenizer.convert_tokens_to_ids("</think>")
    opened = reader.open_after(ids_of(tokenizer, "<think>"))
    ids = [*ids_of(tokenizer, "I say "), *spelled, *ids_of(tokenizer, " aloud")]
    assert close not in ids
    assert reader.read(ids, opened).answer_start is None
    assert reader.read([*ids, close, *ids_of(tokenizer, "Sure")], opened).answer_start == len(ids) + 1


def test_which_side_a_channel_is_on() -> None:
    tokenizer = tokenizer_of("harmony")
    reader = ThoughtReader(tokenizer, STYLES["harmony"].template)
    encoder = ChatEncoder(tokenizer)
    user = [{"role": "user", "content": "Hi"}]

    def opened(words: str = "") -> Any:
        chat = encoder.encode(user, words)
        return reader.open_after(chat.ids[chat.span("user").stop :])

    assert opened() is None
    assert opened("Sure") is None  # forced words stand in the final channel
    assert encoder.end_of_turn_id() == tokenizer.convert_tokens_to_ids("<|return|>")
    final = ids_of(tokenizer, "<|channel|>final<|message|>Sure")
    assert tokenizer.decode(final[reader.read(final).answer_start :]) == "Sure"
    meter = reader.meter(None)
    analysis = ids_of(tokenizer, "<|channel|>analysis<|message|>Hm")
    assert not any(meter.feed(token) for token in analysis)
    assert meter.feed(tokenizer.convert_tokens_to_ids("<|end|>"))  # ends a message, but not the answer
    assert not meter.feed(tokenizer.convert_tokens_to_ids("<|return|>"))
    assert meter.inside


def test_marks_that_a_model_is_said_to_use() -> None:
    tokenizer = tiny_tokenizer("chatml")
    reader = ThoughtReader(tokenizer, TURN, ("Let me see:", "So,"))
    assert reader.thinks
    ids = ids_of(tokenizer, "Let me see: I cannot. So, I can")
    assert tokenizer.decode(ids[reader.read(ids).answer_start :]).strip() == "I can"
    closing_at_end = ThoughtReader(tokenizer, TURN, ("<t>", "<|im_end|>"))
    meter = closing_at_end.meter(closing_at_end.open_after(ids_of(tokenizer, "<t>")))
    meter.feed(ids_of(tokenizer, "a")[0])
    assert meter.feed(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert not meter.inside


def test_none_reads_no_thoughts() -> None:
    tokenizer, _ = reader_of("think", "tokens")
    reader = ThoughtReader(tokenizer, TURN + "<think></think>", "none")
    ids = ids_of(tokenizer, "<think>a</think>b")
    assert not reader.thinks
    assert reader.read(ids).spans == ()
    assert reader.open_after(ids) is None


def test_marks_that_nobody_declares_count_at_the_start_alone() -> None:
    tokenizer = tiny_tokenizer("chatml")
    reader = ThoughtReader(tokenizer, TURN)
    assert not reader.thinks
    at_start = ids_of(tokenizer, "<reasoning>I cannot.</reasoning>Sure")
    assert tokenizer.decode(at_start[reader.read(at_start).answer_start :]) == "Sure"
    later = ids_of(tokenizer, "In XML: <reasoning>I cannot.</reasoning>Sure")
    assert reader.read(later).spans == ()
    assert reader.read(ids_of(tokenizer, "a </think> b")).spans == ()
    forced = ids_of(tokenizer, "<think>I will")
    opened = reader.open_after(ids_of(tokenizer, "<|im_end|>x"), forced)
    assert opened is not None
    assert reader.read(ids_of(tokenizer, " cannot help"), opened).answer_start is None


def test_an_end_that_nothing_has_opened() -> None:
    tokenizer, reader = reader_of("think", "tokens")
    ids = ids_of(tokenizer, "I cannot. Or can I?</think>\n\nSure")
    assert tokenizer.decode(ids[reader.read(ids).answer_start :]) == "Sure"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("is_open", [True, False])
def test_an_end_after_an_end(how: Any, is_open: bool) -> None:
    tokenizer, reader = reader_of("think", how)
    opened = reader.open_after(ids_of(tokenizer, "<think>")) if is_open else None
    ids = ids_of(tokenizer, "I cannot.</think>\nWait. Or can I?\n</think>\n\nSure")
    assert tokenizer.decode(ids[reader.read(ids, opened).answer_start :]) == "Sure"
    meter = reader.meter(opened)
    for token in ids:
        meter.feed(token)
    assert (meter.inside, meter.n_thought) == (False, reader.read(ids, opened).answer_start)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<my:think>", "</my:think>"),
        ("[THOUGHTS]", "[/THOUGHTS]"),
        ("<|thinking_start|>", "<|thinking_end|>"),
        ("<|scratchpad|>", "<|/scratchpad|>"),
        ("<deep_reasoning>", "</deep_reasoning>"),
    ],
)
@pytest.mark.parametrize("in_vocabulary", [True, False])
def test_tags_that_say_what_they_mark(opening: str, closing: str, in_vocabulary: bool) -> None:
    template = TURN + "{{ '" + opening + "\\n' }}"
    marks = (opening, closing) if in_vocabulary else ()
    tokenizer = build_tokenizer(Style(template, ("<|im_start|>", "<|im_end|>"), marks))
    reader = ThoughtReader(tokenizer, template)
    assert reader.thinks
    opened = reader.open_after(ids_of(tokenizer, f"<|im_end|>{opening}\n"))
    assert opened is not None
    assert opened.form.lead == opening
    assert reader.read(ids_of(tokenizer, "I cannot help"), opened).answer_start is None
    ids = ids_of(tokenizer, f"I cannot help{closing}\n\nSure")
    assert tokenizer.decode(ids[reader.read(ids, opened).answer_start :]) == "Sure"


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<scratch_pad>", "</scratch_pad>"),
        ("<|analysis|>", "<|final|>"),
        ("<musings>", "</musings>"),
        ("<ctrl94>", "<ctrl95>"),
        ("<\uff5cthink\uff5c>", "<\uff5c/think\uff5c>"),
        ("<|assistant_thinking|>", "<|assistant_response|>"),
    ],
)
def test_a_mark_that_the_prompt_leaves_open(opening: str, closing: str) -> None:
    template = CHATML.replace("assistant\\n' }}", "assistant\\n" + opening + "' }}")
    assert opening in template
    tokenizer = build_tokenizer(Style(template, ("<|im_start|>", "<|im_end|>"), (opening, closing)))
    reader = ThoughtReader(tokenizer, template)
    opened = reader.open_after(ids_of(tokenizer, f"<|im_end|>\n<|im_start|>assistant\n{opening}"))
    assert opened is not None
    ids = ids_of(tokenizer, f"I cannot help{closing}Sure")
    assert tokenizer.decode(ids[reader.read(ids, opened).answer_start :]) == "Sure"
    assert reader.read(ids_of(tokenizer, "I cannot help"), opened).inside


def test_a_mark_that_nothing_closes_opens_no_thought(caplog: pytest.LogCaptureFixture) -> None:
    opening = "<|reserved_reasoning|>"
    template = CHATML.replace("assistant\\n' }}", "assistant\\n" + opening + "' }}")
    tokenizer = build_tokenizer(Style(template, ("<|im_start|>", "<|im_end|>"), (opening, "<|y|>")))
    prompt = ids_of(tokenizer, f"<|im_end|>\n<|im_start|>assistant\n{opening}")
    reader = ThoughtReader(tokenizer, template)
    assert not reader.thinks
    assert reader.open_after(prompt) is None
    assert reader.read(ids_of(tokenizer, "Sure, here is")).answer_start == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert repr(opening) in said
    assert "`thinking:" in said
    caplog.clear()
    told = ThoughtReader(tokenizer, template, (opening, "<|y|>"))
    assert told.open_after(prompt) is not None
    assert not caplog.records


@pytest.mark.parametrize("style", [name for name in STYLES if "think" not in STYLES[name].template.lower()])
def test_marks_of_turns_are_none_of_thoughts(style: str) -> None:
    if style != "harmony":
        reader = ThoughtReader(tokenizer_of(style), STYLES[style].template)
        assert not any(name.startswith(("<", "[")) for name in reader.names)


def test_white_space_around_a_thought_is_no_answer() -> None:
    tokenizer, reader = reader_of("think", "tokens")
    ids = ids_of(tokenizer, "\n<think>\nHm\n</think>\n\n")
    assert reader.read(ids).answer_start is None
    assert not reader.read(ids).inside
    assert reader.read([]).answer_start == 0


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "a", " b", "\n", ">", "<", "Sure"]), max_size=14), st.booleans()
)
def test_spans_are_apart_and_in_order(parts: list[str], is_open: bool) -> None:
    for how in HOW:
        tokenizer, reader = reader_of("think", how)  # type: ignore[arg-type]
        opened = reader.open_after(ids_of(tokenizer, "<think>")) if is_open else None
        ids = ids_of(tokenizer, "".join(parts))
        read = reader.read(ids, opened)
        edges = [edge for span in read.spans for edge in span]
        assert edges == sorted(edges)
        assert all(0 <= edge <= len(ids) for edge in edges)
        assert len(list(read.answer)) + read.n_thought == len(ids)
        if read.inside and ids:
            assert edges[-1] == len(ids)
