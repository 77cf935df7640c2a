"""How a message says what to set on a model, and how that is written where there is no file to set it in.

One form, so that a command can tell its own users: ``set `chat_template: plain` on the model``.
"""

from __future__ import annotations

import re

_ON_THE_MODEL = re.compile(r"`(\w+):(?: ([^`]+))?` on the model")


def on_the_model(field: str, value: str = "") -> str:
    """A field of a model and what it is to be, as messages write it; without a value where the user must find one."""
    return f"`{field}: {value}` on the model" if value else f"`{field}:` on the model"


def as_options(message: str, prefix: str) -> str:
    """A message with what is to be set on the model as options: ``--set <prefix>chat_template=plain``."""
    return _ON_THE_MODEL.sub(lambda found: f"`--set {prefix}{found[1]}={found[2] or '...'}`", message)
