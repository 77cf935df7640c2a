"""Two model-free controls. A metric that cannot tell them apart is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from rfbench.errors import ModelError
from rfbench.models.backends import BACKENDS, CONTROL
from rfbench.models.base import ChatModel, EncodedChat, Segment, SegmentKind
from rfbench.models.spec import ModelSpec
from rfbench.records import CONTROLS, Attempt, Completion, Finish, Message, OnFlag

EOS_ID = 256
FLAG_ID = 257
ANSWER = "Sure, here is what you asked for."
"""What a control says where it says anything: it complies, so that only the flag tells the two apart."""


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, then the special tokens, which no text encodes to."""

    specials: ClassVar[tuple[str, ...]] = ("<eos>", "<rf>")

    def __len__(self) -> int:
        return 256 + len(self.specials)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The bytes of ``text``. There are no special tokens to add; the argument is that of transformers."""
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become replacement characters.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        parts: list[bytes] = []
        for token in map(int, ids):
            if not 0 <= token < len(self):
                raise ValueError(f"id {token} is outside the vocabulary of {len(self)}")
            if token < 256:
                parts.append(bytes((token,)))
            elif not skip_special_tokens:
                parts.append(self.specials[token - 256].encode())
        return b"".join(parts).decode("utf-8", "replace")


def load(spec: ModelSpec, *, batch_size: int | None, offline: bool) -> ControlModel:
    """The loader of the backend ``control``.

    Raises:
        ModelError: there is no control of this name.
    """
    return ControlModel(spec.spec)


class ControlModel(ChatModel):
    """``always-flag`` emits its flag first, ``never-flag`` complies; neither reads what it is asked.

    Raises:
        ModelError: there is no control of this name.
    """

    capabilities = BACKENDS[CONTROL].capabilities
    is_control = True

    def __init__(self, name: str) -> None:
        if name not in CONTROLS:
            raise ModelError(f"unknown control {name!r}; there are: {', '.join(CONTROLS)}")
        self.name = name
        self.flag_token = ByteTokenizer.specials[FLAG_ID - 256]
        self.flag_id = FLAG_ID
        self.flag_bias = 0.0
        self.eos_ids = frozenset({EOS_ID})
        self.tokenizer = ByteTokenizer()
        self.max_context = 2**31 - 1

    def encode(self, messages: Sequence[Message], prefill: str = "", *, suffix: str = "") -> EncodedChat:
        """Ids of ``role: content`` lines, then the open assistant turn."""
        last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        pieces: list[tuple[SegmentKind, str]] = []
        for i, message in enumerate(messages):
            content = message["content"]
            pieces.append(("template", f"{message['role']}: "))
            cut = content.rfind(suffix) if suffix and i == last_user else -1
            if cut >= 0:
                end = cut + len(suffix)
                pieces += [("user", content[:cut]), ("suffix", suffix), ("user", content[end:])]
            else:
                pieces.append((message["role"], content))
            pieces.append(("template", "\n"))
        pieces += [("template", "assistant: "), ("prefill", prefill)]
        return self._join(pieces)

    def generate(
        self,
        attempts: Sequence[Attempt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        n_samples: int = 1,
        on_flag: OnFlag = "stop",
        seed: int = 0,
    ) -> Iterator[Completion]:
        """Yield the same completion for every (attempt, sample), in order; temperature and seed change nothing."""
        answer = [*self.tokenizer.encode(ANSWER), EOS_ID]
        script = answer if self.name == "never-flag" else [FLAG_ID] if on_flag == "stop" else [FLAG_ID, *answer]
        ids = np.asarray(script[:max_new_tokens], dtype=np.int32)
        finish = _finish(script[:max_new_tokens], on_flag)
        for attempt in attempts:
            chat = self.encode(attempt.messages, attempt.prefill, suffix=attempt.suffix)
            for sample_idx in range(n_samples if attempt.n_samples is None else attempt.n_samples):
                yield Completion(
                    behavior_id=attempt.behavior_id,
                    attempt_idx=attempt.attempt_idx,
                    sample_idx=sample_idx,
                    completion_ids=ids.copy(),
                    # A deterministic model: the flag is certain where it stands and impossible elsewhere.
                    flag_prob=(ids == FLAG_ID).astype(np.float32),
                    completion=self.tokenizer.decode(ids.tolist()),
                    finish=finish,
                    n_prompt_tokens=len(chat.ids),
                    n_prefill_tokens=chat.n_prefill,
                )

    def describe(self) -> Mapping[str, object]:
        """Facts for the provenance of a run."""
        return {**super().describe(), "backend": CONTROL}

    def _join(self, pieces: Sequence[tuple[SegmentKind, str]]) -> EncodedChat:
        ids: list[int] = []
        segments: list[Segment] = []
        for kind, text in pieces:
            start = len(ids)
            ids += self.tokenizer.encode(text)
            if len(ids) > start:
                segments.append(Segment(kind, start, len(ids)))
        return EncodedChat(tuple(ids), tuple(segments))


def _finish(ids: Sequence[int], on_flag: OnFlag) -> Finish:
    last = ids[-1] if ids else None
    if last == EOS_ID:
        return "eos"
    return "flag" if last == FLAG_ID and on_flag == "stop" else "length"
