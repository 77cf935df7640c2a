"""Chat encoding: the only code that knows chat templates, the beginning-of-text token and special tokens.

A conversation is rendered by the tokenizer's own chat template and tokenised in one piece, so the ids
are what the template gives. Special tokens count only where the template wrote them: wherever tokenising
finds one inside a message, the text is cut there and tokenised again, so that text never becomes control.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from rfbench.errors import EncodingError, ModelError
from rfbench.models.base import EncodedChat, Segment, SegmentKind
from rfbench.records import Message, Role

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Assistant\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant\\n' }}{% endif %}"
)
"""``chat_template: plain``: for base models, which have no template of their own."""

_FROZEN_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    " | replace('%Y', '2024') | replace('%m', '07') | replace('%B', 'July') | replace('%b', 'Jul')"
    " | replace('%d', '26') | replace('%A', 'Friday') | replace('%a', 'Fri') }}{% endmacro %}\n"
)
"""Some templates print today's date; a prompt must not change overnight. The day is Llama 3.1's own default."""

_RESERVED_ARGS = {"conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"}

# Characters of the private use area stand for message contents while the template is rendered.
_SLOT_OPEN, _SLOT_CLOSE = "\ue0f0", "\ue0f1"
# What a text is cut with; its own ids are dropped. Several, for vocabularies that merge one with its neighbours.
_CUTTERS = ("\ue0f2", "\u2e18", "\u2063", "\u0a80")
# Enough for the conversations of a unit, which an attack may have encoded before the model does.
_REMEMBERED_CHATS = 256
_CONTROL_SHAPE = re.compile(r"<\|.*\|>")


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: SegmentKind
    text: str


class _Token(NamedTuple):
    """An id, and the span ``[start, stop)`` of characters it was made of."""

    id: int
    start: int
    stop: int


class ChatEncoder:
    """Encodes conversations for one tokenizer, which must not change afterwards.

    An encoding follows from the settings and the conversation alone, so the last 256 are remembered.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        flag_id: protected like a special token, even when the flag was added as an ordinary one.
        system: system prompt put before conversations that bring none; ``None`` leaves it to the template.
        chat_template: replaces the tokenizer's own; ``"plain"`` is :data:`PLAIN_TEMPLATE`.
        template_args: extra variables for the template, e.g. ``{"enable_thinking": False}``.
        escape: keep special tokens typed into messages plain text; ``False`` measures that attack surface.

    Raises:
        ModelError: no chat template or one that rejects a plain request, reserved template variables,
            or a tokenizer without character offsets.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        flag_id: int | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        escape: bool = True,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"tokenizer {type(tokenizer).__name__} gives no character offsets; convert it to a fast tokenizer "
                "(tokenizer.json) and save it beside the model"
            )
        asked = PLAIN_TEMPLATE if chat_template == "plain" else chat_template
        if not (asked or getattr(tokenizer, "chat_template", None)):
            raise ModelError(
                "the tokenizer has no chat template (a base model?): set `chat_template: plain` on the model, "
                "or give a template string or file there"
            )
        if reserved := _RESERVED_ARGS.intersection(template_args or {}):
            raise ModelError(f"template_args: {', '.join(sorted(reserved))} cannot be set there")
        template: str = tokenizer.get_chat_template(asked)
        self.template = _FROZEN_CLOCK + template if "strftime_now" in template else template
        self.tokenizer = tokenizer
        self.system = system
        self.template_args = dict(template_args or {})
        self.escape = escape
        self.control_ids = _control_ids(tokenizer, template) | ({flag_id} if flag_id is not None else set())
        self._bos_id = _implicit_bos(tokenizer)
        self._remembered = lru_cache(_REMEMBERED_CHATS)(self._encode)
        try:
            self.template_text()
        except EncodingError as error:
            raise ModelError(f"{error}; set `chat_template:` on the model, or another `system:`") from error

    def with_system(self, system: str | None) -> ChatEncoder:
        """The same encoder with another system prompt.

        Raises:
            EncodingError: the template cannot carry it.
        """
        other = copy(self)
        other.system = system
        other._remembered = lru_cache(_REMEMBERED_CHATS)(other._encode)
        other.template_text()
        return other

    def encode(self, messages: Sequence[Message], prefill: str = "", *, suffix: str = "") -> EncodedChat:
        """Ids and segments of a conversation up to where the model would go on.

        Raises:
            EncodingError: the template rejects or rewrites the messages, or a text cannot be kept
                from becoming a special token.
        """
        return self._remembered(tuple((m["role"], m["content"]) for m in messages), prefill, suffix)

    def _encode(self, turns: Sequence[tuple[Role, str]], prefill: str, suffix: str) -> EncodedChat:
        messages: list[Message] = [{"role": role, "content": content} for role, content in turns]
        pieces = _mark_suffix(self._pieces(messages), suffix)
        if prefill:
            pieces.append(_Piece("prefill", prefill))
        text = "".join(piece.text for piece in pieces)
        ends = list(accumulate(len(piece.text) for piece in pieces))
        tokens = self._escaped_tokens(text, pieces, ends) if self.escape else self._tokens(text)
        if self._bos_id is not None and (not tokens or tokens[0].id != self._bos_id):
            # Before all text, so that it belongs to the template even where that starts with a message.
            tokens = [_Token(self._bos_id, -1, 0), *tokens]
        if not tokens:
            raise EncodingError("the conversation encodes to no tokens at all")
        owners = [_owner(ends, self._core(token, text)[0]) for token in tokens]
        return EncodedChat(tuple(token.id for token in tokens), _segments(pieces, list(accumulate(owners, max))))

    def template_text(self) -> tuple[str, str]:
        """What the template puts before and after a lone user message (default system prompt included)."""
        pieces = self._pieces([{"role": "user", "content": "x"}])
        at = next(i for i, piece in enumerate(pieces) if piece.kind == "user")
        return "".join(p.text for p in pieces[:at]), "".join(p.text for p in pieces[at + 1 :])

    def end_of_turn_id(self) -> int | None:
        """The special token with which the template closes an assistant turn, if it does."""
        turns: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        try:
            pieces = self._pieces(turns, add_generation_prompt=False)
        except EncodingError:
            return None  # a template for single requests closes none
        at = next(i for i, piece in enumerate(pieces) if piece.kind == "assistant")
        after = "".join(piece.text for piece in pieces[at + 1 :])
        return next((token.id for token in self._tokens(after) if token.id in self.control_ids), None)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_args,
            )
        except Exception as error:  # templates are programs: they raise what they like
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            roles = ", ".join(message["role"] for message in messages)
            raise EncodingError(f"the chat template rejects a conversation of {roles}: {reason}") from error
        return str(rendered)

    def _pieces(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[_Piece]:
        """Split the rendered conversation into template text and message contents.

        Contents are located by rendering once with slots in their place. Searching for the contents
        themselves would let a message that imitates the template move the borders.
        """
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        slots: list[Message] = [
            {"role": m["role"], "content": f"{_SLOT_OPEN}{i}{_SLOT_CLOSE}"} for i, m in enumerate(messages)
        ]
        split = re.split(f"{_SLOT_OPEN}(\\d+){_SLOT_CLOSE}", self._render(slots, add_generation_prompt))
        literals, order = split[0::2], [int(i) for i in split[1::2]]
        if order != list(range(len(messages))):
            roles = ", ".join(message["role"] for message in messages)
            raise EncodingError(f"the chat template drops, repeats or reorders messages of a conversation of {roles}")
        actual = self._render(messages, add_generation_prompt)
        pieces = [_Piece("template", literals[0])]
        at = len(literals[0])
        for message, literal in zip(messages, literals[1:], strict=True):
            content = message["content"]
            # Templates trim white space, some of them on one side or in some roles only.
            variants = (content, content.rstrip(), content.lstrip(), content.strip())
            found = next((v for v in variants if actual.startswith(v + literal, at)), "")
            pieces += [_Piece(message["role"], found), _Piece("template", literal)]
            at += len(found) + len(literal)
        if "".join(piece.text for piece in pieces) != actual:
            raise EncodingError("the chat template rewrites message contents in a way that cannot be followed")
        return pieces

    def _escaped_tokens(self, text: str, pieces: Sequence[_Piece], ends: Sequence[int]) -> list[_Token]:
        """Tokens of ``text``, cut as often as it takes until all special ones are the template's."""
        for cutter in _CUTTERS:
            cuts: list[int] = []
            while (tokens := self._cut_tokens(text, cuts, cutter)) is not None:
                controls = [token for token in tokens if token.id in self.control_ids]
                spans = [self._core(token, text) for token in controls if not self._is_unknown(token, text)]
                typed = {start + 1 for start, stop in spans if _touches_message(pieces, ends, start, stop)}
                if not typed:
                    return tokens
                if typed.issubset(cuts):
                    break  # a special token of one character, or a cutter that the tokenizer removes
                cuts = sorted(typed.union(cuts))
        raise EncodingError("a message holds a special token's string that this tokenizer cannot write as plain text")

    def _is_unknown(self, token: _Token, text: str) -> bool:
        """The unknown token, where it only stands for a character that the vocabulary lacks."""
        unknown_id, unknown = self.tokenizer.unk_token_id, self.tokenizer.unk_token
        return token.id == unknown_id and unknown not in text[token.start : token.stop]

    def _core(self, token: _Token, text: str) -> tuple[int, int]:
        """Span of a token; of a special one without the white space around it that some of them swallow."""
        covered = text[max(token.start, 0) : token.stop]
        if token.id not in self.control_ids or not covered.strip():
            return token.start, token.stop
        start = token.start + len(covered) - len(covered.lstrip())
        return start, start + len(covered.strip())

    def _cut_tokens(self, text: str, cuts: Sequence[int], cutter: str) -> list[_Token] | None:
        """Tokens of ``text``, with none across a cut; ``None`` if the tokenizer merges the cutter with the text."""
        if not cuts:
            return self._tokens(text)
        cut_text = cutter.join(text[start:stop] for start, stop in pairwise((0, *cuts, len(text))))
        cutters = [cut + i for i, cut in enumerate(cuts)]  # where they stand in the cut text
        tokens = []
        for token in self._tokens(cut_text):
            before, until = bisect_left(cutters, token.start), bisect_left(cutters, token.stop)
            if before == until:
                tokens.append(_Token(token.id, token.start - before, token.stop - until))
            elif token.stop - token.start > until - before:
                return None
        return tokens

    def _tokens(self, text: str) -> list[_Token]:
        output = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = zip(output["input_ids"], output["offset_mapping"], strict=True)
        return [_Token(token, start, stop) for token, (start, stop) in pairs]


def _owner(ends: Sequence[int], position: int) -> int:
    """Index of the piece that holds a character; the last one for positions past the end."""
    return bisect_right(ends, min(position, ends[-1] - 1))


def _touches_message(pieces: Sequence[_Piece], ends: Sequence[int], start: int, stop: int) -> bool:
    touched = pieces[_owner(ends, start) : _owner(ends, stop - 1) + 1]
    return any(piece.kind != "template" and piece.text for piece in touched)


def _segments(pieces: Sequence[_Piece], owners: Sequence[int]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for index, piece in enumerate(pieces):
        start, stop = bisect_left(owners, index), bisect_right(owners, index)
        if stop > start:
            segments.append(Segment(piece.kind, start, stop))
    return tuple(segments)


def _mark_suffix(pieces: list[_Piece], suffix: str) -> list[_Piece]:
    if not suffix:
        return pieces
    last_user = max((i for i, piece in enumerate(pieces) if piece.kind == "user"), default=None)
    messages = [i for i, piece in enumerate(pieces) if piece.kind != "template" and i != last_user]
    for at in [*messages, *([] if last_user is None else [last_user])][::-1]:
        kind, text = pieces[at].kind, pieces[at].text
        # A template that trims takes the white space off the suffix, too.
        found = next((s for s in (suffix, suffix.rstrip(), suffix.strip()) if s and s in text), "")
        if found:
            break
    else:
        raise EncodingError("the conversation does not hold the suffix")
    before, _, after = text.rpartition(found)
    parts = [_Piece(kind, before), _Piece("suffix", found), _Piece(kind, after)]
    return pieces[:at] + [part for part in parts if part.text] + pieces[at + 1 :]


def _control_ids(tokenizer: Any, template: str) -> frozenset[int]:
    """Ids that text must never become: special tokens, and added ones that the template writes or look ``<|so|>``."""
    added = {
        int(i)
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special
        or _CONTROL_SHAPE.fullmatch(token.content)
        or (token.content.strip() and token.content in template)
    }
    return frozenset(added | set(tokenizer.all_special_ids))


def _implicit_bos(tokenizer: Any) -> int | None:
    """The beginning-of-text id, if this tokenizer puts one before a text of its own accord."""
    ids = tokenizer("x")["input_ids"]
    return tokenizer.bos_token_id if ids and ids[0] == tokenizer.bos_token_id else None
