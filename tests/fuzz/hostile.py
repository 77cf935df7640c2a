"""Inputs that somebody broke on purpose: a sound document, of which some values or bytes were exchanged."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

fuzzed = settings(
    max_examples=int(os.environ.get("RFBENCH_FUZZ", "200")),
    derandomize="RFBENCH_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
"""200 inputs to each target, the same each time; ``make fuzz`` gives each 10,000 others."""

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
"""Any code points, halves of surrogate pairs among them."""
_NASTY = (
    *(
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\u202e",
        "\ufffe",
        "\ud800",
        "=1+1",
        "../..",
        "~",
        "none",
        "null",
        "yes",
        "1e999",
        "NaN",
    ),
    *("<script>", "]]>", "{{ 7*7 }}", "\\input{x}", "a" * 5000, "9" * 400, "smollm2+", "+", ":", "a:b", "[", "{", "%"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    TEXT,
    st.sampled_from(_NASTY),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(("key", "name")), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document; the document itself is at the empty path."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


@st.composite
def exchanged(draw: Callable[..., Any], document: Any) -> Any:
    """The document with one to three of its parts exchanged, dropped, or joined by others."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(list(paths(changed))))
        if not at:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        holder = changed
        for key in at[:-1]:
            holder = holder[key]
        how = draw(st.sampled_from(("exchange", "exchange", "drop", "add")))
        if how == "exchange":
            holder[at[-1]] = draw(VALUES)
        elif how == "drop":
            del holder[at[-1]]
        elif isinstance(holder, dict):
            holder[draw(TEXT)] = draw(VALUES)
        else:
            holder.append(draw(VALUES))
    return changed


@st.composite
def damaged(draw: Callable[..., Any], content: bytes) -> bytes:
    """The bytes with one to four places cut out, doubled, exchanged, or broken off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        stop = min(len(changed), start + draw(st.integers(0, 12)))
        how = draw(st.sampled_from(("cut", "double", "bytes", "marks", "end")))
        if how == "cut":
            del changed[start:stop]
        elif how == "double":
            changed[start:start] = changed[start:stop]
        elif how == "bytes":
            changed[start:stop] = draw(st.binary(max_size=12))
        elif how == "marks":
            changed[start:start] = draw(
                st.sampled_from((b'"', b",", b"\r", b"\n", b"\0", b"#", b"{", b"[", b":", b"\xef\xbb\xbf"))
            )
        else:
            del changed[start:]
    return bytes(changed)


def as_json(value: Any) -> bytes:
    """JSON as careless programs write it: NaN, and halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()
