"""Texts that a regular expression may match, drawn from the expression itself."""

import random
from re import _constants as op

ANY_LETTER = "abeiost7"
ANY_SIGN = f"{ANY_LETTER}   "


def spelled(parsed, draw: random.Random) -> str:
    """A text that a parsed pattern may match: what it looks for ahead or behind is left to chance."""
    return "".join(spelled_part(kind, value, draw) for kind, value in parsed)


def spelled_part(kind, value, draw: random.Random) -> str:
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.IN:
        single = [chr(letter) for member, letter in value if member is op.LITERAL]
        if len(single) == len(value):
            return draw.choice(single)
        return draw.choice(ANY_SIGN if (op.NEGATE, None) in value else ANY_LETTER)
    if kind in (op.ANY, op.NOT_LITERAL):
        return draw.choice(ANY_SIGN)
    if kind is op.BRANCH:
        return spelled(draw.choice(value[1]), draw)
    if kind is op.SUBPATTERN:
        return spelled(value[-1], draw)
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, greatest, part = value
        return "".join(spelled(part, draw) for _ in range(draw.randint(least, min(int(greatest), least + 3))))
    assert kind in (op.AT, op.ASSERT, op.ASSERT_NOT), kind
    return ""
