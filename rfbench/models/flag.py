"""Which token is a model's flag, and the structural checks that it must pass after every load, merge and tamper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfbench.errors import CanaryError, ModelError
from rfbench.files.outside import parse_json, read_outside
from rfbench.models.remedies import on_the_model

DEFAULT_FLAG = "<rf>"
FLAG_FILE = "rfbench.json"
"""Beside the weights or the adapter: ``flag_token``, ``flag_id``, and ``flag_bias`` under ``calibration``."""
MOST_BIAS = 1e30
"""Nats, either way: what is added to a logit in 32 bits must leave it finite."""
NEAR_MEAN = 0.01
"""A row this close to the mean of all rows, in standard deviations of theirs, has the mean's logit everywhere."""


@dataclass(frozen=True, slots=True)
class FlagFile:
    """What ``rfbench.json`` says; a ``flag_token`` of ``None`` means none if ``names_flag``, else nothing."""

    names_flag: bool = False
    flag_token: str | None = None
    flag_bias: float = 0.0
    flag_id: int | None = None


def read_flag_file(path: Path) -> FlagFile:
    """What the ``rfbench.json`` at ``path`` says about the flag.

    Raises:
        ModelError: the file is not what it should be.
    """
    try:
        content = parse_json(read_outside(path))
        token, flag_id = content.get("flag_token"), content.get("flag_id")
        bias = float((content.get("calibration") or {}).get("flag_bias", 0.0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be used ({error}); fix or remove it") from error
    if not abs(bias) <= MOST_BIAS:  # what is not a number is not, either
        raise ModelError(f"{path}: calibration.flag_bias is {bias}, no number of nats; calibrate again, or remove it")
    if not isinstance(token, str | None) or token == "":
        raise ModelError(f"{path}: flag_token must be a string, or null for a model without a flag")
    if not isinstance(flag_id, int | None):
        raise ModelError(f"{path}: flag_id must be a whole number, or null for a model without a flag")
    return FlagFile("flag_token" in content, token, bias, flag_id)


def resolve_flag(asked: str | None, beside: FlagFile, tokenizer: Any) -> str | None:
    """The flag's string: as asked, else from ``rfbench.json``, else ``<rf>`` if the vocabulary has it, else none."""
    if asked is not None:
        return None if asked == "none" else asked
    if beside.names_flag:
        return beside.flag_token
    return DEFAULT_FLAG if DEFAULT_FLAG in tokenizer.get_vocab() else None


def add_flag_token(tokenizer: Any, flag_token: str) -> None:
    """Give the flag the next free id of a tokenizer, as a special token; one that has the token stays as it is."""
    from tokenizers import AddedToken

    if flag_token not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(flag_token, special=True, normalized=False)], special_tokens=True)


def flag_id_of(tokenizer: Any, flag_token: str) -> int:
    """Id of the flag.

    Raises:
        CanaryError: the string is not exactly one id of the vocabulary.
    """
    ids = tokenizer(flag_token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and flag_token != tokenizer.unk_token):
        raise CanaryError(
            f"flag {flag_token!r} must be exactly one id of the vocabulary, and encodes to {ids}; "
            f"name another ({on_the_model('flag')}), or say that it has none ({on_the_model('flag', 'none')})"
        )
    return int(ids[0])


def check_flag(module: Any, tokenizer: Any, flag_token: str) -> int:
    """Id of the flag, after the structural checks of a loaded model.

    Raises:
        CanaryError: the string is not exactly one id inside the vocabulary, or the output row of that
            id cannot have been trained; see :func:`untrained`.
    """
    flag_id = flag_id_of(tokenizer, flag_token)
    rows = module.get_output_embeddings().weight
    if flag_id >= rows.shape[0]:
        raise CanaryError(
            f"flag {flag_token!r} has id {flag_id}, outside the output matrix of {rows.shape[0]} rows: "
            "the embeddings were not resized, or the tokenizer belongs to another model"
        )
    if problem := untrained(rows, flag_id):
        raise CanaryError(f"the output row of flag {flag_token!r} (id {flag_id}) {problem}: it was never trained")
    return flag_id


def untrained(rows: Any, flag_id: int) -> str:
    """Why a row of the output matrix ``(v, hidden)`` looks untrained; empty when it does not.

    A row that was never trained is zero, stands there twice (reserved tokens share one initialisation),
    or is the mean of the others (the default of resizing, plus tiny noise).
    """
    rows = rows.detach()
    row = rows[flag_id].float()
    if not bool(row.isfinite().all()):
        return "is not finite"
    if float(row.abs().max()) == 0.0:
        return "is all zero"
    alike = rows[rows[:, 0] == rows[flag_id, 0]]
    if twins := int((alike == rows[flag_id]).all(dim=1).sum()) - 1:
        return f"equals {twins} other row(s)"
    mean = rows.mean(dim=0, dtype=row.dtype)
    spread = (rows.norm(dim=1, dtype=row.dtype).square().mean() - mean.square().sum()).clamp(min=0).sqrt()
    if bool((row - mean).norm() < NEAR_MEAN * spread):
        return "is the mean of all rows"
    return ""
