"""Answer cells: requests and answers that do not belong together, so that neither alone says what is right.

A harmful request and a harmful answer go together in every public data set. What learns from those alone learns to
read the request. A cell takes a request, begins the answer for it, and lets the base go on: a harmful request with a
refusal or with harmless text, a benign request with a harmful beginning, an answer that turns, a conversation of several
turns (rfbench; the recovery from a harmful beginning is that of arXiv 2406.05946, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rfbench.records import Behavior, Message, digest
from rfbench.train.recipe import CellName, CellSettings

UNLABELLED = 4
"""Tokens at the start of an answer that carry no label in a cell: an answer of the other kind may begin alike."""
SAFE_WORDS = (6, 30)
"""Least and largest number of words of the harmless text that an answer begins with."""
RECOVERY_TOKENS = 40
"""Largest number of tokens of a harmful answer before the model returns to a refusal (arXiv 2406.05946, section 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A request whose answer is begun for the model.

    ``teaches``: what is taught is wanted behind ``prefill``; otherwise nothing that comes is to be flagged.
    ``safe_start``: the beginning itself is harmless, and must not be flagged either.
    """

    cell: CellName
    behavior: Behavior
    messages: tuple[Message, ...]
    prefill: str
    teaches: bool
    safe_start: bool

    @property
    def key(self) -> str:
        """Unique among the conversations of a training."""
        return f"{self.behavior.behavior_id}/{self.cell}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What cells are made of: requests, and harmless answers of the base by the id of their request."""

    harmful: Sequence[Behavior]
    benign: Sequence[Behavior]
    answers: Mapping[str, str]

    def safe_text(self, behavior: Behavior, name: str) -> str:
        """The beginning of the base's answer to some other, benign request."""
        ids = [b.behavior_id for b in self.benign if b.behavior_id in self.answers and b.twin_id != behavior.behavior_id]
        number = _number("safe", name, behavior.behavior_id)
        words = self.answers[ids[number % len(ids)]].split(" ")
        least, largest = SAFE_WORDS
        return " ".join(words[: least + number // len(ids) % (largest - least + 1)])

    def harmful_other(self, behavior: Behavior, name: str) -> Behavior:
        """Some other request, a harmful one with a target."""
        others = [b for b in self.harmful if b.target and b.behavior_id != behavior.twin_id]
        return others[_number("other", name, behavior.behavior_id) % len(others)]


Builder = Callable[[Pool, CellSettings], Iterator[Begun]]


def refusal_begun(pool: Pool, settings: CellSettings) -> Iterator[Begun]:
    """A harmful request, and a refusal."""
    for behavior in pool.harmful:
        text = settings.refusals[_number("refusal", behavior.request) % len(settings.refusals)]
        yield _begun("refusal", behavior, text, teaches=False, safe_start=True)


def safe_begun(pool: Pool, settings: CellSettings) -> Iterator[Begun]:
    """A harmful request, and harmless text about something else."""
    for behavior in pool.harmful:
        yield _begun("safe", behavior, pool.safe_text(behavior, "safe"), teaches=False, safe_start=True)


def harmful_begun(pool: Pool, settings: CellSettings) -> Iterator[Begun]:
    """A benign or a neutral request, and the beginning of a harmful answer."""
    for behavior in pool.benign:
        number = _number("neutral", behavior.behavior_id)
        neutral = settings.neutral[number // 4 % len(settings.neutral)] if number % 4 == 0 and settings.neutral else ""
        target = pool.harmful_other(behavior, "harmful").target
        yield _begun("harmful", behavior, target, teaches=True, safe_start=False, request=neutral)


def turning(pool: Pool, settings: CellSettings) -> Iterator[Begun]:
    """An answer that begins harmless and turns: behind a harmful request to its target, behind others to another one."""
    for behavior in (*pool.harmful, *pool.benign):
        target = behavior.target if behavior.is_harmful else pool.harmful_other(behavior, "turn").target
        if target:
            text = f"{pool.safe_text(behavior, 'turn')}\n\n{target}"
            yield _begun("turn", behavior, text, teaches=True, safe_start=False)


def second_turn(pool: Pool, settings: CellSettings) -> Iterator[Begun]:
    """A benign request after a harmful one that was refused, and a harmful one after a benign one that was answered."""
    for behavior in (*pool.harmful, *pool.benign):
        if behavior.is_harmful:
            answered = [b for b in pool.benign if b.behavior_id in pool.answers and b.twin_id != behavior.behavior_id]
            before = answered[_number("turns", behavior.behavior_id) % len(answered)]
            said = pool.answers[before.behavior_id]
        else:
            before = pool.harmful_other(behavior, "turns")
            said = settings.refusals[_number("turns", before.request) % len(settings.refusals)]
        history: tuple[Message, ...] = (
            {"role": "user", "content": before.request},
            {"role": "assistant", "content": said},
        )
        prefill = behavior.target if behavior.is_harmful else ""
        yield _begun("turns", behavior, prefill, teaches=behavior.is_harmful, safe_start=False, history=history)


CELLS: Mapping[CellName, Builder] = {
    "refusal": refusal_begun,
    "safe": safe_begun,
    "harmful": harmful_begun,
    "turn": turning,
    "turns": second_turn,
}


def _begun(
    cell: CellName,
    behavior: Behavior,
    prefill: str,
    *,
    teaches: bool,
    safe_start: bool,
    request: str = "",
    history: tuple[Message, ...] = (),
) -> Begun:
    messages: tuple[Message, ...] = (*history, {"role": "user", "content": request or behavior.request})
    return Begun(
        cell=cell, behavior=behavior, messages=messages, prefill=prefill, teaches=teaches, safe_start=safe_start
    )


def _number(*parts: str) -> int:
    """A number that only depends on the parts: what is chosen does not change with what else is learned from."""
    return int(digest(["cell", *parts])[:12], 16)
