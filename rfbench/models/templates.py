"""Which chat template a conversation is rendered with, and what keeps it the same from day to day."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rfbench.errors import ModelError

logger = logging.getLogger(__name__)

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


def freeze_clock(template: str) -> str:
    """The template, with today's date replaced by a day that stays."""
    return _FROZEN_CLOCK + template if "strftime_now" in template else template


def find_template(tokenizer: Any, asked: str | None) -> str:
    """The chat template that is meant.

    Args:
        tokenizer: of the model, with one template, several named ones, or none.
        asked: ``"plain"``, a name, Jinja text, or ``None`` for the tokenizer's own.

    Raises:
        ModelError: there is none of that name, none at all, or several of which none is the default.
    """
    own = getattr(tokenizer, "chat_template", None)
    named: Mapping[str, str] = own if isinstance(own, Mapping) else {}
    if asked == "plain":
        return PLAIN_TEMPLATE
    if asked is not None:
        if asked in named:
            return named[asked]
        if asked == "default" and isinstance(own, str) and own:
            return own
        if any(mark in asked for mark in ("{{", "{%", "\n")):
            return asked
        there = f"it has: {', '.join(sorted(named))}" if named else "it has no named templates"
        raise ModelError(
            f"the tokenizer has no chat template named {asked!r} ({there}); name one of its own, `plain`, "
            "or the path of a file"
        )
    if isinstance(own, str) and own:
        return own
    if "default" in named:
        return named["default"]
    if named:
        return _only_plain_chat(tokenizer, named)
    raise ModelError(
        "the tokenizer has no chat template (a base model?): set `chat_template: plain` on the model, "
        "or give a template string or file there"
    )


def _only_plain_chat(tokenizer: Any, named: Mapping[str, str]) -> str:
    """The one of several templates that can carry a plain request: others are for tools and documents.

    Raises:
        ModelError: none of them can, or more than one.
    """
    request = "\ue0f0"
    able = []
    for name, template in named.items():
        try:
            messages = [{"role": "user", "content": request}]
            rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        except Exception as error:  # templates are programs: they raise what they like
            logger.debug("template %s: %s", name, error)
            continue
        if request in rendered:
            able.append(name)
    if len(able) != 1:
        raise ModelError(
            "the tokenizer has several chat templates and no default; set `chat_template:` on the model to the name of "
            f"one: {', '.join(sorted(named))}"
        )
    logger.warning(
        "of the tokenizer's chat templates (%s) %r alone carries a plain request, and is taken",
        ", ".join(sorted(named)),
        able[0],
    )
    return named[able[0]]
