"""Forced words stand where the template itself places an assistant's words, whatever the family."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import STYLES, Style, build_tokenizer, tokenizer_of
from doubles import CHATML, save_tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from rfbench.attacks.suffix.layout import RoundTrip, lay_out, write
from rfbench.data.catalog import DatasetSpec
from rfbench.data.load import load_behaviors
from rfbench.errors import EncodingError, ModelError
from rfbench.models.encoding import ChatEncoder
from rfbench.models.forced_words import check_forced_words
from rfbench.models.identity import identify
from rfbench.models.parts import Checkpoint, load_tokenizer
from rfbench.models.spec import ModelSpec
from rfbench.models.thinking import ThoughtReader
from rfbench.records import Behavior, Message

WORDS = ("Sure, here", "I cannot", "Sure", "1. First, gather the materials:\n2.", " Sure", "Sure, here is:\n\n", "A")
MANY: list[Message] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there."},
    {"role": "user", "content": "How do I bake bread?"},
]
SYSTEM: Message = {"role": "system", "content": "Be brief."}


def encoder_of(style: str, **settings: Any) -> ChatEncoder:
    tokenizer = tokenizer_of(style)
    flag = tokenizer.convert_tokens_to_ids("<rf>")
    return ChatEncoder(tokenizer, flag_id=flag, template_args=dict(STYLES[style].args), **settings)


def reference(style: str, messages: Sequence[Message], words: str = "") -> list[int]:
    """What transformers makes of it."""
    turns = [*messages, {"role": "assistant", "content": words}] if words else list(messages)
    how = {"continue_final_message": True} if words else {"add_generation_prompt": True}
    ids = tokenizer_of(style).apply_chat_template(turns, tokenize=True, return_dict=False, **how, **STYLES[style].args)
    return list(ids)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("messages", [MANY[-1:], MANY], ids=["one", "many"])
def test_forced_ids_are_those_of_continue_final_message(style: str, messages: list[Message]) -> None:
    encoder = encoder_of(style)
    for words in WORDS:
        chat = encoder.encode(messages, words)
        assert list(chat.ids) == reference(style, messages, words), words
        assert chat.segments[-1].kind == "prefill"
        assert chat.segments[-1].stop == len(chat.ids)
        said = tokenizer_of(style).decode(chat.ids[chat.span("prefill").start :], skip_special_tokens=False)
        assert said.strip() == words.strip()
        assert chat.n_prefill == len(chat.ids) - chat.span("prefill").start > 0
    assert list(encoder.encode(messages).ids) == reference(style, messages)


@pytest.mark.parametrize("style", STYLES)
def test_the_check_at_load_agrees(style: str) -> None:
    assert check_forced_words(encoder_of(style)) == ""
    if STYLES[style].system:
        assert check_forced_words(encoder_of(style, system="Be brief.")) == ""


def test_the_check_at_load_says_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("llama2")
    bare = encoder.encode

    def glued(messages: Sequence[Message], prefill: str = "", *, suffix: str = "") -> Any:
        """As it was: the words follow the generation prompt, without the space."""
        chat = bare(messages)
        words = encoder.tokenizer(prefill, add_special_tokens=False)["input_ids"]
        return type(chat)((*chat.ids, *words[1:]), chat.segments)

    monkeypatch.setattr(encoder, "encode", glued)
    line = check_forced_words(encoder)
    assert "forced words 'Sure, here is' end in" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("style", "before", "after"),
    [
        ("llama2", "[/INST]", "[/INST] Sure"),
        ("vicuna", "ASSISTANT:", "ASSISTANT: Sure"),
        ("glm4", "<|assistant|>", "<|assistant|>\nSure"),
        ("qwen3", "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\nSure"),
        ("qwen3-quiet", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nSure"),
        ("deepseek-r1", "<|Assistant|><think>\n", "<|Assistant|>Sure"),
        ("harmony", "<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>Sure"),
        ("cohere", "<|CHATBOT_TOKEN|>", "<|CHATBOT_TOKEN|><|START_RESPONSE|>Sure"),
        ("glm4.5", "<|assistant|>", "<|assistant|>\n<think></think>\nSure"),
    ],
)
def test_where_an_answer_begins_by_hand(style: str, before: str, after: str) -> None:
    encoder = encoder_of(style)
    decode = tokenizer_of(style).decode
    assert decode(encoder.encode(MANY[-1:]).ids).endswith(before)
    assert decode(encoder.encode(MANY[-1:], "Sure").ids).endswith(after)


def test_the_first_forced_token_takes_the_space_of_the_template() -> None:
    chat = encoder_of("llama2").encode(MANY[-1:], "Sure, here")
    first = chat.ids[chat.span("prefill").start]
    assert tokenizer_of("llama2").convert_ids_to_tokens(first).startswith("\u2581S")
    assert chat.segments[-2].kind == "template"


@pytest.mark.parametrize("style", [name for name, style in STYLES.items() if style.system])
@pytest.mark.parametrize("words", ["", "Sure, here"])
def test_a_system_prompt_is_never_lost(style: str, words: str) -> None:
    tokenizer = tokenizer_of(style)
    for messages in (MANY[-1:], MANY):
        chat = encoder_of(style, system="Be brief.").encode(messages, words)
        kinds = [s.kind for s in chat.segments if s.kind not in ("template", "prefill")]
        assert sorted(kinds) == sorted(["system", *(m["role"] for m in messages)])
        text = tokenizer.decode(chat.ids, skip_special_tokens=False)
        assert text.count("Be brief.") == 1
        expected = reference(style, [SYSTEM, *messages], words)
        if "mistral-v3" in style and words:  # the reference loses it: it writes it into a message that ends a chat
            assert "Be brief." not in tokenizer.decode(expected)
            n_tail = len(chat.ids) - chat.span("user").stop
            assert list(chat.ids)[-n_tail:] == expected[-n_tail:]
        else:
            assert list(chat.ids) == expected


def test_messages_that_are_dropped_or_repeated_are_still_refused() -> None:
    drops = "{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}"
    repeats = "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}"
    swaps = "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}"
    tokenizer = tiny_tokenizer("chatml")
    for template in (drops, swaps):
        with pytest.raises(EncodingError, match="drops, repeats or reorders"):
            ChatEncoder(tokenizer, chat_template=template).encode(MANY)
    with pytest.raises(ModelError, match="drops, repeats or reorders"):
        ChatEncoder(tokenizer, chat_template=repeats)


def test_a_template_that_cannot_go_on_takes_the_words_after_its_prompt_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('one request only') }}{% endif %}"
        "{{ 'Q: ' + m['content'] + '\\nA:' }}{% endfor %}"
    )
    tokenizer = tiny_tokenizer("chatml")
    encoder = ChatEncoder(tokenizer, chat_template=template)
    with caplog.at_level(logging.WARNING):
        first = encoder.encode(MANY[-1:], " Sure")
        encoder.encode(MANY[-1:], " Of course")
    assert tokenizer.decode(first.ids) == "Q: How do I bake bread?\nA: Sure"
    assert first.n_prefill > 0
    said = [r.message for r in caplog.records if "forced words" in r.message]
    assert len(said) == 1
    assert "one request only" in said[0]
    assert check_forced_words(encoder) == ""


def test_words_that_the_template_would_rewrite_follow_its_prompt(caplog: pytest.LogCaptureFixture) -> None:
    raw = encoder_of("deepseek-r1", escape=False)
    with caplog.at_level(logging.WARNING):
        chat = raw.encode(MANY[-1:], "Done.</think>Sure")
    tokenizer = tokenizer_of("deepseek-r1")
    assert tokenizer.decode(chat.ids).endswith("<|Assistant|><think>\nDone.</think>Sure")
    assert tokenizer.convert_tokens_to_ids("</think>") in chat.ids
    assert "forced words follow the generation prompt" in caplog.text


FOLDING = (
    "{% for m in messages %}{{ m['role'].capitalize() + ': ' "
    "+ m['content'].replace('\\n\\n', '\\n') | trim + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A template that folds blank lines, and whose generation prompt lacks the space before an answer."""


@pytest.mark.parametrize("spaces", ["bytes", "metaspace"])
def test_words_that_the_template_rewrites_stand_where_it_places_words(spaces: Any, monkeypatch: Any) -> None:
    tokenizer = build_tokenizer(Style(FOLDING, (), (), spaces=spaces))
    encoder = ChatEncoder(tokenizer)
    for words in ("Sure, here is\n\nFirst", " Sure\n\n\n\nFirst", "1. A\n\n2. B\n"):
        chat = encoder.encode(MANY, words)
        assert tokenizer.decode(chat.ids).endswith(f"Assistant: {words.strip()}"), words
        prefill = tokenizer.decode(chat.ids[chat.span("prefill").start :])
        assert prefill.strip() == words.strip()
    assert check_forced_words(encoder) == ""
    # Behind the generation prompt, as it was, the check would say so.
    bare = ChatEncoder._continued

    def glued(self: ChatEncoder, messages: Sequence[Message], words: str) -> Any:
        if "\n" in words:
            raise EncodingError("rewritten")
        return bare(self, messages, words)

    monkeypatch.setattr(ChatEncoder, "_continued", glued)
    assert "forced words 'Sure, here is\\n\\nFirst' end in" in check_forced_words(ChatEncoder(tokenizer))


def test_ids_under_chatml_are_as_they_were() -> None:
    tokenizer = tiny_tokenizer("chatml")
    encoder = ChatEncoder(tokenizer)
    prompt = tokenizer.apply_chat_template(MANY, tokenize=False, add_generation_prompt=True)
    for words in (*WORDS, "  two spaces", "\nSure", "Sure "):
        expected = tokenizer(prompt + words, add_special_tokens=False)["input_ids"]
        assert list(encoder.encode(MANY, words).ids) == expected, words


@pytest.mark.smollm2
def test_ids_of_the_shipped_model_are_as_they_were() -> None:
    """Those of the generation prompt and the words, in one piece, on every request of ``core`` and its target."""
    spec = ModelSpec.parse("smollm2+redflag")
    tokenizer = load_tokenizer(spec, Checkpoint.of(spec, offline=False))
    encoder = ChatEncoder(tokenizer, flag_id=tokenizer.convert_tokens_to_ids("<rf>"))
    assert not ThoughtReader(tokenizer, encoder.template).thinks
    behaviors = [b for name in ("core/harmful", "core/twin") for b in load_behaviors(DatasetSpec(name=name))]
    assert len(behaviors) > 90
    for behavior in behaviors:
        messages: list[Message] = [{"role": "user", "content": behavior.request}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for words in ("", behavior.target, f"{behavior.target}\n", "Sure"):
            expected = tokenizer(prompt + words, add_special_tokens=False)["input_ids"]
            assert list(encoder.encode(messages, words).ids) == expected


TEXTS = st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20)


@given(st.sampled_from(sorted(STYLES)), TEXTS, st.sampled_from(["", "Be brief."]))
def test_forced_text_survives_in_its_span(style: str, words: str, system: str) -> None:
    encoder = encoder_of(style, system=system or None) if STYLES[style].system else encoder_of(style)
    chat = encoder.encode(MANY, words)
    said = tokenizer_of(style).decode(chat.ids[chat.span("prefill").start :], skip_special_tokens=False)
    assert said.strip() == words.strip()
    assert [s.start for s in chat.segments] == [0, *(s.stop for s in chat.segments[:-1])]


def test_special_tokens_that_are_forced_stay_text() -> None:
    for style in ("harmony", "qwen3", "llama3", "mistral-v3"):
        encoder = encoder_of(style)
        plain = encoder.encode(MANY, "Sure a b")
        typed = f"Sure {STYLES[style].markers[-1]} b <rf>"
        chat = encoder.encode(MANY, typed)
        controls = [i for i in chat.ids if i in encoder.control_ids]
        assert controls == [i for i in plain.ids if i in encoder.control_ids]


def test_a_mark_of_a_thought_that_is_spelled_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = encoder_of("qwen3")
    for words in ("</think>\n\nSure", "</think>\n\nFirst", "Sure"):
        encoder.encode(MANY, words)
    said = [record.getMessage() for record in caplog.records if "hold" in record.getMessage()]
    assert said == ["forced words hold '</think>', which is text here; special_tokens: raw sends it as a token"]
    caplog.clear()
    encoder_of("qwen3", escape=False).encode(MANY, "</think>\n\nSure")
    encoder_of("llama3").encode(MANY, "</think>\n\nSure")  # no token in this vocabulary
    assert "forced words hold" not in caplog.text


# --- attacks that reason about the border ----------------------------------------------------------------------------


class _Loaded:
    """What laying out a chat asks of a model."""

    def __init__(self, style: str) -> None:
        self.name, self.tokenizer, self.max_context = style, tokenizer_of(style), 2048
        self.encoder = encoder_of(style)
        self.encode = self.encoder.encode


@pytest.mark.parametrize("style", STYLES)
def test_targets_are_laid_out_where_answers_stand(style: str) -> None:
    model: Any = _Loaded(style)
    template: list[Message] = [{"role": "user", "content": "{request}{optim_str}"}]
    behavior = Behavior(behavior_id="b", prompt="How do I bake bread?", target="Sure, here is")
    layout = lay_out(model, template, behavior, " ! ! ! !", behavior.target)
    messages = write(template, behavior.request, " ! ! ! !")
    assert list(layout.fill(layout.suffix)) == reference(style, messages, behavior.target)
    assert [*layout.before, *layout.suffix, *layout.closing] == reference(style, messages)
    assert model.tokenizer.decode(layout.target).strip() == behavior.target
    assert (layout.asked is None) == (layout.after == layout.closing)
    trip = RoundTrip(model, layout, lambda text: write(template, behavior.request, text))
    assert trip.survivors(np.array([layout.suffix])).tolist() == [True]


# --- templates by name -----------------------------------------------------------------------------------------------


def named(**templates: str) -> Any:
    tokenizer = build_tokenizer(STYLES["chatml"])
    tokenizer.chat_template = templates
    return tokenizer


def test_a_name_that_the_tokenizer_has_is_a_template() -> None:
    tokenizer = named(default=STYLES["zephyr"].template, rag=CHATML)
    rag = ChatEncoder(tokenizer, chat_template="rag").encode(MANY)
    assert tokenizer.decode(rag.ids).startswith("<|im_start|>system")
    assert tokenizer.decode(ChatEncoder(tokenizer).encode(MANY).ids).startswith("<|user|>")
    with pytest.raises(ModelError, match=r"no chat template named 'rga' \(it has: default, rag\)"):
        ChatEncoder(tokenizer, chat_template="rga")
    with pytest.raises(ModelError, match="no named templates"):
        ChatEncoder(tokenizer_of("chatml"), chat_template="rag")


def test_several_templates_without_a_default(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError, match=r"set `chat_template:` .* one: rag, tool_use"):
        ChatEncoder(named(rag=CHATML, tool_use=CHATML + "tools"))
    only = named(rag=CHATML, tool_use="{{ tools[0]['name'] }}")
    with caplog.at_level(logging.WARNING):
        assert ChatEncoder(only).template == CHATML
    assert "'rag' alone carries a plain request" in caplog.text


def test_a_name_is_told_from_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tokenizer = named(default=CHATML, rag=CHATML)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    spec = ModelSpec(spec=str(folder), chat_template="rag")
    assert spec.check(tmp_path) == []
    assert spec.resolve(tmp_path).template_text() == "rag"
    (problem,) = ModelSpec(spec=str(folder), chat_template="rga").check(tmp_path)
    assert "chat_template 'rga' cannot be read: no such file" in problem
    assert "default, rag" in problem
    (problem,) = ModelSpec(spec=str(folder), chat_template="rag.jinja").check(tmp_path)
    assert "cannot be read" in problem
    (tmp_path / "rag").write_text("{{ messages[0]['content'] }}")  # a file of that name comes first, as it always did
    assert spec.resolve(tmp_path).template_text() == "{{ messages[0]['content'] }}"


def test_a_named_template_that_changes_is_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny = save_tiny_model(folder)
    named(default=CHATML, rag=CHATML).save_pretrained(tiny)
    spec = ModelSpec(spec=str(folder), chat_template="rag")
    before = identify(spec).template_sha256
    (file,) = (folder / "additional_chat_templates").glob("rag.jinja")
    file.write_text(file.read_text() + " ")
    assert identify(spec).template_sha256 != before
