"""Packages as pip would have installed them, for the tests of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    site: Path,
    distribution: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
    *,
    version: str = "1.0",
) -> None:
    """Put a package into the folder ``site``, which is to stand on ``sys.path``.

    Args:
        site: the folder.
        distribution: name of the package in an index.
        entry_points: name -> ``module:object``, by group.
        modules: source text by file name, which may lie in folders.
        version: of the package.
    """
    for file, source in modules.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


ATTACK = '''
"""An attack that somebody else wrote."""

from rfbench.attack import PromptAttack
from rfbench.records import Attempt


class Shout(PromptAttack):
    """Ask loudly, https://example.org/shout."""

    version = 1
    source = "https://example.org/shout"

    def craft(self, model, behavior, rng):
        """Yield the one attempt."""
        yield Attempt(behavior.behavior_id, messages=[{"role": "user", "content": behavior.request.upper()}])
'''

MEASURE = '''
"""A measure that somebody else wrote."""

from rfbench.measures.base import Measure


class Size(Measure):
    """How long the name of a model is."""

    version = 1

    def gives(self, figure):
        return False

    def rows(self, model, reference, behaviors, *, seed):
        return [{"measure": "size", "value": float(len(model.name))}]
'''

JUDGE = '''
"""A judge that somebody else wrote."""

from pydantic import Field

from rfbench.judges.base import Judge


class Loud(Judge):
    """How much of an answer is in capitals, https://example.org/loud."""

    version = 1
    needs_text = True
    source = "https://example.org/loud"

    least: int = Field(default=1, ge=1, description="letters that an answer must have to be scored")

    def scores(self, answers):
        letters = [[char for char in text if char.isalpha()] for text in answers["answer"]]
        return [
            sum(map(str.isupper, each)) / len(each) if len(each) >= self.least else float("nan") for each in letters
        ]
'''

BACKEND = '''
"""A backend that somebody else wrote: what rfbench reads of it before anything is loaded."""

from rfbench.models.backends import Backend
from rfbench.models.base import Capability

ECHO = Backend(
    loader="echo_backend.model:load",
    capabilities=frozenset({Capability.PREFILL}),
    summary="says what it was asked",
    checkpoint=False,
    models=("echo", "parrot"),
    packages=("echo-backend",),
)
'''

BACKEND_MODEL = '''
"""The model of the backend: bytes as ids, and a flag where the request is marked as harmful."""

import numpy as np

from rfbench.models.base import ChatModel, EncodedChat, Segment
from rfbench.models.controls import ByteTokenizer, EOS_ID, FLAG_ID
from rfbench.records import Completion
from echo_backend import ECHO


class Echo(ChatModel):
    capabilities = ECHO.capabilities

    def __init__(self, spec):
        self.name = spec.label
        self.flag_token, self.flag_id, self.flag_bias = "<rf>", FLAG_ID, 0.0
        self.eos_ids = frozenset({EOS_ID})
        self.tokenizer = ByteTokenizer()
        self.max_context = 100_000

    def encode(self, messages, prefill="", *, suffix=""):
        before = self.tokenizer.encode("".join(message["content"] for message in messages))
        ids = [*before, *self.tokenizer.encode(prefill)]
        return EncodedChat(tuple(ids), (Segment("prefill", len(before), len(ids)),))

    def generate(self, attempts, *, max_new_tokens, temperature=0.0, n_samples=1, on_flag="stop", seed=0):
        for attempt in attempts:
            chat = self.encode(attempt.messages, attempt.prefill)
            said = attempt.messages[-1]["content"]
            ids = [FLAG_ID] if "HARMFUL" in said.upper() else [*said.encode()[: max_new_tokens - 1], EOS_ID]
            for sample_idx in range(attempt.n_samples or n_samples):
                yield Completion(
                    behavior_id=attempt.behavior_id,
                    attempt_idx=attempt.attempt_idx,
                    sample_idx=sample_idx,
                    completion_ids=np.asarray(ids, dtype=np.int32),
                    flag_prob=np.asarray([i == FLAG_ID for i in ids], dtype=np.float32),
                    completion=self.tokenizer.decode(ids),
                    finish="flag" if ids == [FLAG_ID] else "eos",
                    n_prompt_tokens=len(chat.ids),
                    n_prefill_tokens=chat.n_prefill,
                )


def load(spec, *, batch_size, offline):
    return Echo(spec)
'''

DATASET = '''
"""A dataset that somebody else wrote."""

from pathlib import Path

from rfbench.data.registry import Entry, Form, PackagedSource


def entry():
    """Everyday requests."""
    source = PackagedSource(Path(__file__).parent / "calm.jsonl", Form({"prompt": "ask"}))
    return Entry(is_harmful=False, source="made up", licence="MIT", file=source)
'''
