"""How models mark what they think before they answer: the table of known forms, and thoughts found in a text.

A thought is no answer: verdicts are read from what comes after it. Where ids are at hand
(:mod:`rfbench.models.thinking`) a mark that is one token is known by its id, so that a model that spells it out in
pieces closes nothing; a text alone is read by the marks themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Form:
    """A way to mark thoughts.

    ``opens`` and ``closes`` are regular expressions in which ``%0``, ``%1`` ... stand for the ``marks``, each a string
    that tokenizers hold as one token, or that is spelled out. ``lead`` is how an opened thought looks in text.
    ``inner`` are tokens that end a message within the thought, and so do not end the answer. Of a ``spare`` form the
    vocabulary says nothing, as many have its tokens for no purpose: a template must write them. The marks of ``prose``
    are sentences that an answer may hold too: they count where a text begins with one, and an end alone is none.
    """

    name: str
    marks: tuple[str, ...]
    opens: str
    closes: str
    lead: str
    inner: tuple[str, ...] = ()
    spare: bool = False
    prose: bool = False


def pair(name: str, opening: str, closing: str, *, inner: tuple[str, ...] = (), spare: bool = False) -> Form:
    """A form of one mark before the thought and one after it; an opening tag of the answer goes with the latter."""
    return Form(name, (opening, closing), "%0", r"%1(?:\s*<(?:answer|response|output)>)?", opening, inner, spare)


FORMS: tuple[Form, ...] = (
    pair("think", "<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, SmolLM3, Granite, Phi reasoning, Nemotron, ...
    pair("thinking", "<thinking>", "</thinking>"),
    pair("thought", "<thought>", "</thought>"),  # EXAONE Deep
    pair("reasoning", "<reasoning>", "</reasoning>"),
    pair("magistral", "[THINK]", "[/THINK]"),
    pair("seed", "<seed:think>", "</seed:think>"),
    pair("cohere", "<|START_THINKING|>", "<|END_THINKING|>"),
    pair("kimi", "\u25c1think\u25b7", "\u25c1/think\u25b7"),
    pair("apertus", "<|inner_prefix|>", "<|inner_suffix|>"),
    pair("open-thoughts", "<|begin_of_thought|>", "<|end_of_thought|>"),
    pair("longcat", "<longcat_think>", "</longcat_think>"),
    pair("think-fast", "<think_fast>", "</think_fast>"),  # K2 Think
    pair("think-faster", "<think_faster>", "</think_faster>"),
    pair("solar", "<|think|>", "<|content|>", inner=("<|end|>",)),
    pair("medgemma", "<unused94>", "<unused95>", spare=True),
    pair("pangu", "[unused16]", "[unused17]", spare=True),
    pair("ctrl", "<ctrl94>", "<ctrl95>", spare=True),
    Form(
        "granite",
        ("Here is my thought process:", "Here is my response:"),
        r"%0|Here's my thought process:",
        r"%1|Here's my response:",
        "Here is my thought process:",
        prose=True,
    ),
    Form("gemma", ("<|channel>", "<channel|>"), "%0", "%1", "<|channel>thought\n"),
    # gpt-oss: every channel but the last is a thought, and so is all between messages.
    Form(
        "harmony",
        ("<|channel|>", "<|message|>", "<|start|>"),
        r"(?:%2\s*assistant\b.{0,80}?)?%0(?!\s*final\b.{0,40}?%1)",
        r"%0\s*final\b.{0,40}?%1|%2\s*assistant\s*%1",
        "<|channel|>analysis<|message|>",
        inner=("<|end|>",),
    ),
)
"""The known forms. Others are given as ``thinking: {open: ..., close: ...}`` in a model's mapping."""

# A tag that says by its name what it marks; names of the second kind do so only where a text or prompt opens with them.
_LETTER = "[A-Za-z0-9_:.\u2581-]"
_NAME = rf"{_LETTER}*(?i:think|thought|reason|scratch_?pad){_LETTER}*"
_WIDE = (
    r"(?i:(?:inner|internal|my|self|initial|chain)?[_-]?"
    r"(?:analysis|analy[sz]ing|cot|rationale|reflection|monologue|deliberation|contemplation|introspection|brainstorm))"
)
_BEFORE, _AFTER = "(<[|\uff5c]?|\\[|\u25c1)", "([|\uff5c]?>|\\]|\u25b7)"
_TAG = re.compile(f"{_BEFORE}({_NAME}){_AFTER}")
_ANY_TAG = re.compile(f"{_BEFORE}({_LETTER}+){_AFTER}")
_SAYS_THOUGHT = re.compile(f"{_NAME}|{_WIDE}")
_THOUGHT_WORD = re.compile(rf"(?i:think(?:ing)?|thoughts?|reason(?:ing)?|scratch_?pad|{_WIDE})")
_ANSWERS = ("response", "answer", "final", "content", "output", "solution")
_ANSWER_NAME = re.compile("(?i)assistant|message|role|" + "|".join(_ANSWERS))
_ENDS = (("START", "END"), ("BEGIN", "END"), ("start", "end"), ("begin", "end"))
TAGGED = Form("tagged", (), rf"<[|\uff5c]?(?:{_NAME}|{_WIDE})[|\uff5c]?>", "", "<think>")
"""Any such tag: known where a text begins with one, and where the text goes on after its end."""
_ONLY_TAGS = re.compile(r"(?:\s|</?[|\uff5c]?[^<>\s]{1,40}>)*\Z")


def closings(opening: str) -> tuple[str, ...]:
    """Marks that may close what a tag opens, the likeliest first; none for what is no tag, or an end itself."""
    found = _ANY_TAG.fullmatch(opening)
    if found is None or any(end in found[2] for _, end in _ENDS):
        return ()
    before, name, after = found.groups()
    names = [name.replace(a, b) for a, b in _ENDS if a in name] or [f"/{name}"]
    if not names[0].startswith("/"):
        guesses = [before + each + after for each in (*names, f"/{name}")]
    else:
        guesses = [before + each + after for each in (*names, f"end_{name}", f"{name}_end", f"end_of_{name}")]
    guesses += [f"</{before[1:]}{name}{after}", f"</{name}>"]
    if len(after) == 1 and len(before) == 2:  # <|name> ... <name|>
        guesses.append(f"<{name}{before[1]}>")
    if _THOUGHT_WORD.search(name):
        guesses += [before + _THOUGHT_WORD.sub(word, name, count=1) + after for word in _ANSWERS if len(after) == 2]
    return tuple(dict.fromkeys(guesses))


def tag_form(opening: str, closing: Sequence[str]) -> Form:
    """The form of a tag and of all that may close it."""
    either = "|".join(f"%{i}" for i in range(1, len(closing) + 1))
    closes = rf"(?:{either})(?:\s*<(?:answer|response|output)>)?"
    return Form(opening, (opening, *closing), "%0", closes, opening)


def tags_named(texts: Iterable[str]) -> tuple[str, ...]:
    """Opening tags that are not in the table, but say by their names what they are: ``<my:think>``, ``[THOUGHT]``.

    Args:
        texts: where tags may stand: a chat template, tokens of a vocabulary.
    """
    known = {mark for form in FORMS for mark in form.marks}
    tags = (found[0] for text in texts for found in _TAG.finditer(text))
    return tuple(dict.fromkeys(tag for tag in tags if tag not in known and closings(tag)))


def tags_left_open(before: str, after: str, ended: str) -> tuple[str, ...]:
    """Tags that a template opens behind a request and leaves open, but for those of turns and answers.

    Args:
        before: what it writes before a request.
        after: what it writes after it for a model to go on with.
        ended: what it writes after an answer.
    """
    known = {mark for form in FORMS for mark in form.marks}
    found = []
    for tag in _ANY_TAG.finditer(after):
        opening, rest = tag[0], after[tag.end() :]
        of_turns = opening in before or any(mark in ended for mark in closings(opening))
        answers = _ANSWER_NAME.search(tag[2]) and not says_thought(opening)
        if opening not in known and not of_turns and not answers and not any(m in rest for m in closings(opening)):
            found.append(opening)
    return tuple(dict.fromkeys(found))


def says_thought(tag: str) -> bool:
    """Whether a tag says by its name that it marks a thought."""
    found = _ANY_TAG.fullmatch(tag)
    return found is not None and _SAYS_THOUGHT.fullmatch(found[2]) is not None


@dataclass(frozen=True, slots=True)
class Finder:
    """A form that is ready to be looked for: what opens and what closes a thought.

    ``orphans``: a close counts that nothing has opened: all before it is thought, as the opening may stand where it is
    not seen.
    """

    form: Form
    opens: re.Pattern[str]
    closes: re.Pattern[str]
    orphans: bool = True

    def opened_by(self, mark: str) -> Finder:
        """The same form, of a thought that ``mark`` has opened: any tag is closed by its like alone."""
        if self.form is not TAGGED:
            return self
        return replace(self, closes=finder(tag_form(mark.strip(), closings(mark.strip()))).closes)


def finder(form: Form, write: Callable[[str], str] = re.escape, *, at_start: bool = False) -> Finder:
    """Compile a form; ``write`` gives the expression for a mark, ``at_start`` admits a thought at the start alone."""

    def expression(pattern: str) -> str:
        return re.sub(r"%(\d+)", lambda found: write(form.marks[int(found[1])]), pattern)

    opens = expression(form.opens)
    return Finder(
        form,
        re.compile(rf"\A\s*(?:{opens})" if at_start else opens, re.DOTALL),
        re.compile(expression(form.closes), re.DOTALL),
        orphans=not (at_start or form.prose),
    )


def find_thoughts(
    text: str, finders: Sequence[Finder], inside: Finder | None = None
) -> tuple[list[Span], Finder | None]:
    """Spans of characters that are thought, marks included, and the form of one that is still open at the end.

    A thought that is closed again goes on to its last end, unless marks of its form end more than thoughts.

    Args:
        text: in which the marks are looked for.
        finders: forms.
        inside: the form of a thought that was open before the text began.
    """
    spans: list[Span] = []
    at = start = 0
    last: Finder | None = None
    while True:
        if inside is None:
            opening = _first([(each.opens.search(text, at), each) for each in finders])
            if not spans:
                orphan = _first([(each.closes.search(text), each) for each in finders if each.orphans])
                if orphan and (opening is None or orphan[0].start() < opening[0].start()):
                    spans.append((0, orphan[0].end()))
                    at, last = orphan[0].end(), orphan[1]
                    continue
            again = last.closes.search(text, at) if last and last.orphans and not last.form.inner else None
            if again and (opening is None or again.start() < opening[0].start()):  # it had closed too early
                spans[-1] = (spans[-1][0], again.end())
                at = again.end()
                continue
            if opening is None:
                return spans, None
            found, inside = opening[0], opening[1].opened_by(opening[0][0])
            start, at = found.start(), found.end()
        close = inside.closes.search(text, at)
        if close is None:
            return [*spans, (start, len(text))], inside
        if inside.form is TAGGED and _ONLY_TAGS.match(text, close.end()):
            return spans, None  # all that is said
        spans.append((start, close.end()))
        at, last, inside = close.end(), inside, None


def _first(found: Sequence[tuple[re.Match[str] | None, Finder]]) -> tuple[re.Match[str], Finder] | None:
    """The match that begins first."""
    matches = [(match, form) for match, form in found if match is not None]
    return min(matches, key=lambda pair: pair[0].start()) if matches else None


def without(text: str, spans: Sequence[Span]) -> str:
    """``text`` without some spans of it, which may reach beyond its end."""
    kept, at = [], 0
    for start, stop in spans:
        kept.append(text[at:start])
        at = max(at, stop)
    return "".join([*kept, text[at:]])


_IN_TEXT = (*(finder(form, at_start=form.prose) for form in FORMS), finder(TAGGED, at_start=True))
_MARKS = sorted({re.escape(mark) for form in FORMS if not form.prose for mark in form.marks}, key=len, reverse=True)
_MARK = re.compile("|".join(_MARKS))
_SIGNS = tuple({mark[0] for form in FORMS if not form.prose for mark in form.marks} | {TAGGED.opens[0]})
"""Few letters with one of which every mark begins, but those of prose: most texts hold none."""
_AT_START = tuple(each for each in _IN_TEXT if not each.orphans)
_OF_PROSE = tuple(each for each in _AT_START if each.form.prose)
_THOUGHT_TAG = re.compile(f"{_BEFORE}/?(?:{_NAME}|{_WIDE}){_AFTER}")


def marks_in(text: str) -> tuple[str, ...]:
    """The marks of thoughts that a text holds: those of the table, and tags that say what they mark."""
    found = {match[0]: match.start() for expression in (_MARK, _THOUGHT_TAG) for match in expression.finditer(text)}
    return tuple(sorted(found, key=lambda mark: (found[mark], mark)))


def spans_in_text(text: str) -> tuple[list[Span], bool]:
    """The thoughts of a text by the known marks alone, and whether it ends inside one."""
    has_signs = any(map(text.__contains__, _SIGNS))
    leads = any(each.opens.match(text) for each in (_AT_START if has_signs else _OF_PROSE))
    if not leads and (not has_signs or _MARK.search(text) is None):
        return [], False
    spans, inside = find_thoughts(text, _IN_TEXT)
    return spans, inside is not None


def read_answer(text: str) -> tuple[str, bool]:
    """What a text says outside its thoughts, by the known marks alone; and whether it ends inside a thought."""
    spans, inside = spans_in_text(text)
    return without(text, spans) if spans else text, inside
