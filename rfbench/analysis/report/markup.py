"""HTML that cannot be broken out of: what is not :class:`Markup` is escaped wherever it is put."""

from __future__ import annotations

import html
from collections.abc import Iterable

from rfbench.analysis.section import clean


class Markup(str):
    """HTML that is safe as it stands."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Attribute values, and children that are no ``Markup``, are escaped; ``class_`` writes ``class``."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """The children one after the other, escaped unless they are ``Markup``."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def escape(text: object) -> str:
    """``text`` for use anywhere in a page: no markup, no control characters, valid UTF-8; line breaks stay."""
    lines = "\n".join(map(clean, str(text).split("\n")))
    return html.escape(lines.encode("utf-8", "replace").decode(), quote=True)
