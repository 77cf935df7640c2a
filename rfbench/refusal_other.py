"""The refusal reader, other languages: which sentence of an opening declines in one of them."""

from __future__ import annotations

import re
from typing import Final

from rfbench.refusal_grammar import VERSE
from rfbench.refusal_languages import LATIN_RULES
from rfbench.refusal_languages_following import LETTER
from rfbench.refusal_request import Request
from rfbench.refusal_scripts import OTHER_RULES

OTHER_LANGUAGE_SENTENCES: Final = 4
"""So many sentences of a completion are read for a refusal in another language."""
OTHER_LANGUAGE_CHARS: Final = 400
"""How much of a completion is read for a refusal in another language."""
_ENGLISH = (" you", " and ", " that ", "i'm ")
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1fff\u3040-\ud7ff]")
_DIALOGUE = re.compile(r",|(?:\w{2,20}: [^\n]*\n+){2}")
"""What was a dash, or the names of two speakers."""
_STOP = re.compile(r"[.!?](?=\s|\Z)|[\n\u3002\uff01\uff1f\u0964\u061f]")
"""The end of a sentence in any language."""
_QUOTED = re.compile(r"\"[^\"]*(?:\"|\Z)|[\u300c\u300e][^\u300d\u300f]*(?:[\u300d\u300f]|\Z)")


def other_language(opening: str, request: Request | None) -> tuple[str, str]:
    """The rule of another language and the sentence that it matches, or nothing twice.

    What was to be translated or declined is no refusal.
    """
    is_english = " the " in opening or (" to " in opening and any(map(opening.__contains__, _ENGLISH)))
    is_other = not opening.isascii() and _OTHER_SCRIPT.search(opening) is not None
    if is_english and not is_other:
        return "", ""
    known = (() if is_english else LATIN_RULES) + (OTHER_RULES if is_other else ())
    rules = [rule for rule in known if any(map(opening.__contains__, rule[1]))]
    wants_words = request is not None and (request.gives_refusal or request.wants_decline)
    if not rules or wants_words or LETTER.match(opening) or VERSE.match(opening) or _DIALOGUE.match(opening):
        return "", ""
    for sentence in _STOP.split(opening[:OTHER_LANGUAGE_CHARS])[:OTHER_LANGUAGE_SENTENCES]:
        sentence = sentence.strip(" .,:;-\n")
        if '"' in sentence or "\u300c" in sentence:
            sentence = _QUOTED.sub("", sentence)
        if not sentence or sentence[0] == "'":
            continue
        if sentence.isalpha() and sentence < "\u3000" and request is not None and not request.is_how_to:
            continue  # a bare no answers a question
        for name, _, pattern in rules:
            if pattern.search(sentence):
                return name, sentence
    return "", ""
