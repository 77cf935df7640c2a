"""A rendered conversation taken apart: which of its text is the template's, and which is each message's own.

Contents are located by rendering once with slots in their place. Searching for the contents themselves would let a
message that imitates the template move the borders.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rfbench.errors import EncodingError
from rfbench.models.base import Segment, SegmentKind
from rfbench.records import Message

# Characters of the private use area stand for message contents while the template is rendered.
_SLOT_OPEN, _SLOT_CLOSE = "\ue0f0", "\ue0f1"
_SLOT = re.compile(f"{_SLOT_OPEN}(\\d+){_SLOT_CLOSE}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text from one source."""

    kind: SegmentKind
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around messages: ``literals`` (one more than ``order``), and which message stands where.

    ``order`` numbers the messages that were rendered, in the order in which the template wrote them.
    """

    literals: tuple[str, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, rendered: str) -> Frame:
        """From a conversation that was rendered with the contents of :func:`with_slots`."""
        split = _SLOT.split(rendered)
        return cls(tuple(split[0::2]), tuple(map(int, split[1::2])))

    def keeps(self, messages: Sequence[Message]) -> bool:
        """Whether every message is written, once. A system prompt may stand anywhere, the turns in their own order."""
        turns = [i for i in self.order if messages[i]["role"] != "system"]
        return turns == sorted(turns) and sorted(self.order) == list(range(len(messages)))


def with_slots(messages: Sequence[Message]) -> list[Message]:
    """The same conversation, a slot in place of each content."""
    return [{"role": m["role"], "content": f"{_SLOT_OPEN}{i}{_SLOT_CLOSE}"} for i, m in enumerate(messages)]


def fill(frame: Frame, messages: Sequence[Message], actual: str) -> list[Piece]:
    """The pieces of ``actual``: the frame with the contents in its slots, as the template wrote them.

    Raises:
        EncodingError: it is not that text.
    """
    pieces = [Piece("template", frame.literals[0])]
    at = len(frame.literals[0])
    for number, literal in zip(frame.order, frame.literals[1:], strict=True):
        message = messages[number]
        found = next((v for v in trimmed(message["content"]) if actual.startswith(v + literal, at)), "")
        pieces += [Piece(message["role"], found), Piece("template", literal)]
        at += len(found) + len(literal)
    if "".join(piece.text for piece in pieces) != actual:
        raise EncodingError("the chat template rewrites message contents in a way that cannot be followed")
    return pieces


def trimmed(content: str) -> list[str]:
    """What a template may make of a content by trimming white space (some trim one side, or line ends alone)."""
    n_start, n_stop = len(content) - len(content.lstrip()), len(content.rstrip())
    starts = range(n_start + 1) if n_start < len(content) else (0, len(content))
    stops = range(len(content), n_stop - 1, -1)
    # Most templates trim all or nothing, and there is more to try where white space is long.
    usual = [content, content.rstrip(), content.lstrip(), content.strip()]
    return list(dict.fromkeys([*usual, *(content[i:j] for i in starts for j in stops if i <= j)][:_MOST_VARIANTS]))


_MOST_VARIANTS = 64


def owner(ends: Sequence[int], position: int) -> int:
    """Index of the piece that holds a character; the last one for positions past the end."""
    return bisect_right(ends, min(position, ends[-1] - 1))


def touches_message(pieces: Sequence[Piece], ends: Sequence[int], start: int, stop: int) -> bool:
    """Whether a span of characters holds some of a message, or of forced words."""
    touched = pieces[owner(ends, start) : owner(ends, stop - 1) + 1]
    return any(piece.kind != "template" and piece.text for piece in touched)


def segments(pieces: Sequence[Piece], owners: Sequence[int]) -> tuple[Segment, ...]:
    """Spans of tokens, from the piece that each token belongs to; ``owners`` never falls."""
    found: list[Segment] = []
    for index, piece in enumerate(pieces):
        start, stop = bisect_left(owners, index), bisect_right(owners, index)
        if stop > start:
            found.append(Segment(piece.kind, start, stop))
    return tuple(found)


def mark_suffix(pieces: list[Piece], suffix: str) -> list[Piece]:
    """The pieces with the suffix as one of its own: of the last user message that holds it, else of any.

    Raises:
        EncodingError: no message holds it.
    """
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
    parts = [Piece(kind, before), Piece("suffix", found), Piece(kind, after)]
    return pieces[:at] + [part for part in parts if part.text] + pieces[at + 1 :]
