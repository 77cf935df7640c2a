"""What is learned from: requests with answers, as ids. Answered by the base model, kept in the cache.

Answers to harmful requests are never written into a run folder or a repository: they lie as ids in the cache of
this machine (``RFBENCH_CACHE``), under a key that names all they depend on.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from rfbench.data.load import content_hash
from rfbench.errors import DataError, EncodingError, StorageError
from rfbench.files.atomic import write_atomically
from rfbench.files.cache import cache_root
from rfbench.records import Attempt, Behavior, digest
from rfbench.scoring.refusal.reader import read_refusal
from rfbench.train.recipe import DataSettings, Recipe

if TYPE_CHECKING:
    from rfbench.models.base import ChatModel, EncodedChat

logger = logging.getLogger(__name__)

Form = Literal["direct", "prefilled"]
CHUNK = 128
"""Requests per cache file: what a kill during generation loses at most."""
FORMAT = 2
"""Raised whenever what lies in a cache file changes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """One request and one answer.

    ``ids`` ``(p + t,)`` are prompt and answer; the answer begins at ``start`` with ``n_prefill`` forced ids.
    ``user`` is the half-open span of the request's own text. ``taught``: the answer shows what is to be learned (to
    flag, or to refuse); the others hold the rest in place.
    """

    key: str
    behavior_id: str
    taught: bool
    ids: npt.NDArray[np.int32]
    start: int
    n_prefill: int
    user: tuple[int, int]

    @property
    def n_answer(self) -> int:
        """Ids of the answer, prefill included."""
        return len(self.ids) - self.start


def build_conversations(
    behaviors: Sequence[Behavior],
    recipe: Recipe,
    model: ChatModel,
    *,
    end_of_turn: int | None,
    identity: str,
    progress: bool = False,
) -> tuple[Conversation, ...]:
    """A conversation for each request and form of it that the recipe learns from.

    Args:
        behaviors: requests.
        recipe: which answers.
        model: the base, before any training.
        end_of_turn: id that closes an answer which is given as text, ``None`` for none.
        identity: hash of the base: part of the cache's key.
        progress: show a bar.

    Raises:
        DataError: no conversation of one of the kinds is left.
        StorageError: the cache cannot be written.
    """
    harmful = [b for b in behaviors if b.is_harmful]
    benign = [b for b in behaviors if not b.is_harmful]
    data = recipe.data
    conversations: list[Conversation] = []
    if recipe.what.answers_given:
        conversations += _given(harmful, [_refusal(b, data) for b in harmful], model, end_of_turn)
    elif data.answers == "dataset":
        conversations += _given(harmful, [b.target for b in harmful], model, end_of_turn)
    wanted: list[tuple[Behavior, Form]] = [(b, "direct") for b in benign]
    if data.prefilled_benign:
        wanted += [(b, "prefilled") for b in benign if b.target and (b.twin_id or data.prefilled_benign != "twins")]
    if not recipe.what.answers_given and data.answers == "self":
        wanted += [(b, form) for form in ("prefilled", "direct") for b in harmful]
    conversations += _answered(wanted, data, model, identity=identity, seed=recipe.seed, progress=progress)
    kept = [c for c in conversations if _fits(c.start, data) and c.n_answer > 0]
    if {c.taught for c in kept} != {b.is_harmful for b in behaviors}:
        raise DataError("no usable answers to the harmful, or to the benign, requests; see max_prompt_tokens")
    return tuple(kept)


def _fits(n_prompt: int, data: DataSettings) -> bool:
    return n_prompt <= data.max_prompt_tokens


def _refusal(behavior: Behavior, data: DataSettings) -> str:
    if not data.refusals:
        return behavior.target
    return data.refusals[int(digest(["refusal", behavior.request])[:12], 16) % len(data.refusals)]


def _given(
    behaviors: Sequence[Behavior], answers: Sequence[str], model: ChatModel, end: int | None
) -> Iterator[Conversation]:
    """Conversations whose answers are given as text; the answer ends with the end of the turn."""
    for behavior, answer in zip(behaviors, answers, strict=True):
        chat = _encode(model, behavior, answer.strip())
        if chat is not None:
            yield _conversation(behavior, "direct", chat, [] if end is None else [end], n_prefill=0)


def _conversation(
    behavior: Behavior, form: Form, chat: EncodedChat, generated: Sequence[int], *, n_prefill: int
) -> Conversation:
    user = chat.span("user")
    return Conversation(
        key=f"{behavior.behavior_id}/{form}",
        behavior_id=behavior.behavior_id,
        taught=behavior.is_harmful,
        ids=np.asarray([*chat.ids, *generated], dtype=np.int32),
        start=len(chat.ids) - chat.n_prefill,
        n_prefill=n_prefill,
        user=(user.start, user.stop),
    )


def _encode(model: ChatModel, behavior: Behavior, prefill: str) -> EncodedChat | None:
    try:
        return model.encode([{"role": "user", "content": behavior.request}], prefill)
    except EncodingError as error:
        logger.warning("%s is left out: %s", behavior.behavior_id, error)
        return None


def _answered(
    wanted: Sequence[tuple[Behavior, Form]],
    data: DataSettings,
    model: ChatModel,
    *,
    identity: str,
    seed: int,
    progress: bool,
) -> Iterator[Conversation]:
    """Conversations that the base model answers itself; its refusals of harmful requests are no harmful answers."""
    from tqdm import tqdm

    # Before generating: one prompt of thousands of tokens would cost more than all the others.
    chats = {
        (behavior.behavior_id, form): chat
        for behavior, form in wanted
        if (chat := _encode(model, behavior, behavior.target if form == "prefilled" else "")) is not None
        and _fits(len(chat.ids) - chat.n_prefill, data)
    }
    if len(chats) < len(wanted):
        logger.info("%d of %d prompts are left out: too long", len(wanted) - len(chats), len(wanted))
    wanted = [(behavior, form) for behavior, form in wanted if (behavior.behavior_id, form) in chats]
    refused = 0
    chunks = [wanted[i : i + CHUNK] for i in range(0, len(wanted), CHUNK)]
    for chunk in tqdm(chunks, desc="answers of the base", unit="chunk", disable=not progress):
        for (behavior, form), generated in zip(
            chunk, _generate(chunk, data, model, identity=identity, seed=seed), strict=True
        ):
            chat = chats[behavior.behavior_id, form]
            prefill = behavior.target if form == "prefilled" else ""
            if not len(generated):
                continue
            if (
                behavior.is_harmful
                and read_refusal(model.tokenizer.decode(generated), behavior.request, prefill).refused
            ):
                refused += 1
                continue
            yield _conversation(behavior, form, chat, generated, n_prefill=chat.n_prefill)
    if refused:
        logger.info("the base refused %d harmful requests: these answers are left out", refused)


def _generate(
    chunk: Sequence[tuple[Behavior, Form]], data: DataSettings, model: ChatModel, *, identity: str, seed: int
) -> list[list[int]]:
    """Generated ids for each entry, from the cache where they lie there; empty where the model could not answer."""
    key = digest(
        [
            FORMAT,
            identity,
            content_hash([b for b, _ in chunk]),
            [form for _, form in chunk],
            [data.max_answer_tokens, data.temperature, seed if data.temperature else 0],
        ]
    )
    path = cache_root() / "train" / f"{key}.npz"
    if (known := _read_ids(path, len(chunk))) is not None:
        return known
    attempts = [
        Attempt(
            f"{behavior.behavior_id}/{form}",
            messages=[{"role": "user", "content": behavior.request}],
            prefill=behavior.target if form == "prefilled" else "",
        )
        for behavior, form in chunk
    ]
    completions = list(
        model.generate(attempts, max_new_tokens=data.max_answer_tokens, temperature=data.temperature, seed=seed)
    )
    errors = [c for c in completions if c.error]
    ids = [c.completion_ids.tolist() for c in completions]
    if errors:  # not kept: what struck may be gone the next time
        logger.warning("%d requests got no answer, first %s: %s", len(errors), errors[0].behavior_id, errors[0].error)
    else:
        _write_ids(path, ids)
    return ids


def _read_ids(path: Path, n: int) -> list[list[int]] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            values, lengths = file["values"], file["lengths"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s): its answers are generated again", path, error)
        return None
    return [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])] if len(lengths) == n else None


def _write_ids(path: Path, ids: Sequence[Sequence[int]]) -> None:
    buffer = io.BytesIO()
    values = np.asarray([i for row in ids for i in row], dtype=np.int32)
    np.savez_compressed(buffer, values=values, lengths=np.asarray([len(row) for row in ids], dtype=np.int64))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise StorageError(f"{path.parent}: answers cannot be kept ({error.strerror}); set RFBENCH_CACHE") from error
