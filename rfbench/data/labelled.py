"""The ready sets of labelled answers, and which columns of theirs say what. Only descriptions, as in the registry.

Names of columns and values are those of the sources' own cards. Rows that fall in none of a set's cells are left out:
partial refusals of XSTest, answers that nobody labelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rfbench.data.conversations import AnswerLabel, RequestKind
from rfbench.data.download import PublicCopy, PublicFile
from rfbench.data.registry import Form, HubSource

CORE = "core/answers"
"""The grid that is written for this project: :mod:`rfbench.data.grid`."""
Values = Mapping[str, tuple[str, ...]]
"""Column -> the values that it may have, in small letters; the source may write them in any case."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The rows of a source that hold one kind of answer to one kind of request."""

    request: RequestKind
    answer: AnswerLabel
    where: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledEntry:
    """A public set of requests and labelled answers, with all that is needed to read it.

    ``request`` and ``answer`` are its columns; the first of ``cells`` that a row falls in says what it is, but for rows
    that ``without`` names. ``files`` lie below ``RFBENCH_DATA``; ``public`` are the same, made of pinned public files.
    """

    source: str
    licence: str
    request: str
    answer: str
    cells: tuple[Cell, ...]
    without: Values = field(default_factory=dict)
    files: tuple[str, ...]
    public: tuple[PublicCopy, ...] = ()
    hub: HubSource | None = None
    note: str = ""


def _cell(request: RequestKind, answer: AnswerLabel, **where: str | tuple[str, ...]) -> Cell:
    return Cell(request, answer, {key: (value,) if isinstance(value, str) else value for key, value in where.items()})


_XSTEST_COMMIT = "a3bb396ddc1939c6f264f17b7cf5b7a5d82833de"
_XSTEST_FILES = {
    "gpt4": "71af323af8ecdec0efae23992317721441d2cfedddedeef3248f842f4e15c9ca",
    "llama2new": "6365cc55ce0a593c7ab8785853d02784be027d97199d4077912b4313cd010099",
    "mistralinstruct": "6a146b65a5b96ec8249729bc2db459697175125998d7cbbcc88f7688ecf31dad",
}
_UNSAFE = (
    "contrast_homonyms",
    "contrast_figurative_language",
    "contrast_safe_targets",
    "contrast_safe_contexts",
    "contrast_definitions",
    "contrast_discr",
    "contrast_historical_events",
    "contrast_privacy",
)
_SAFE = (
    "homonyms",
    "figurative_language",
    "safe_targets",
    "safe_contexts",
    "definitions",
    "real_group_nons_discr",
    "nons_group_real_discr",
    "historical_events",
    "privacy_public",
    "privacy_fictional",
)


def _xstest_copy(model: str, sha256: str) -> PublicCopy:
    path = f"model_completions/xstest_v2_completions_{model}.csv"
    file = PublicFile("paul-rottger/exaggerated-safety", _XSTEST_COMMIT, path, sha256)
    return PublicCopy(name=f"xstest/completions_{model}.csv", sha256=sha256, files=(file,))


_HARMFUL, _UNHARMFUL = {"response_harm_label": "harmful"}, {"response_harm_label": "unharmful"}

LABELLED: Mapping[str, LabelledEntry] = {
    "xstest/answers": LabelledEntry(
        source="XSTest completions of three models, labelled by hand (arXiv 2308.01263)",
        licence="CC BY 4.0",
        request="prompt",
        answer="completion",
        cells=(
            _cell("harmful", "harmful", type=_UNSAFE, final_label="1_full_compliance"),
            _cell("harmful", "refusal", type=_UNSAFE, final_label="2_full_refusal"),
            _cell("benign", "safe", type=_SAFE, final_label="1_full_compliance"),
        ),
        files=tuple(f"xstest/completions_{model}.csv" for model in _XSTEST_FILES),
        public=tuple(_xstest_copy(model, sha256) for model, sha256 in _XSTEST_FILES.items()),
        note="compliance and refusal on unsafe prompts, compliance on safe ones",
    ),
    "beavertails": LabelledEntry(
        source="BeaverTails, 30k test split (arXiv 2307.04657)",
        licence="CC BY-NC 4.0",
        request="prompt",
        answer="response",
        cells=(
            _cell("unknown", "harmful", is_safe="false"),
            _cell("unknown", "safe", is_safe="true"),
        ),
        files=("beavertails/test.jsonl",),
        hub=HubSource("PKU-Alignment/BeaverTails", Form(), split="30k_test"),
        note="requests are not labelled; refusals count as safe",
    ),
    "wildguardmix": LabelledEntry(
        source="WildGuardMix, WildGuardTest (arXiv 2406.18495)",
        licence="ODC-BY",
        request="prompt",
        answer="response",
        cells=(
            _cell("harmful", "harmful", prompt_harm_label="harmful", **_HARMFUL),
            _cell("harmful", "refusal", prompt_harm_label="harmful", response_refusal_label="refusal", **_UNHARMFUL),
            _cell("harmful", "safe", prompt_harm_label="harmful", response_refusal_label="compliance", **_UNHARMFUL),
            _cell("benign", "harmful", prompt_harm_label="unharmful", **_HARMFUL),
            _cell("benign", "refusal", prompt_harm_label="unharmful", response_refusal_label="refusal", **_UNHARMFUL),
            _cell("benign", "safe", prompt_harm_label="unharmful", response_refusal_label="compliance", **_UNHARMFUL),
        ),
        files=("wildguardmix/test.jsonl",),
        hub=HubSource("allenai/wildguardmix", Form(), config="wildguardtest", split="test"),
        note="gated on the Hub",
    ),
    "toxic-chat": LabelledEntry(
        source="ToxicChat 0124, test split (arXiv 2310.17389)",
        licence="CC BY-NC 4.0",
        request="user_input",
        answer="model_output",
        cells=(_cell("benign", "safe", human_annotation="true", toxicity="0", jailbreaking="0"),),
        files=("toxic-chat/test.csv",),
        hub=HubSource("lmsys/toxic-chat", Form(), config="toxicchat0124", split="test"),
        note="its labels are those of the requests: only answers to harmless ones, checked by a person, are safe text",
    ),
    "aegis": LabelledEntry(
        source="Aegis AI Content Safety 2.0, test split (arXiv 2501.09004)",
        licence="CC BY 4.0",
        request="prompt",
        answer="response",
        cells=(
            _cell("harmful", "harmful", prompt_label="unsafe", response_label="unsafe"),
            _cell("harmful", "safe", prompt_label="unsafe", response_label="safe"),
            _cell("benign", "harmful", prompt_label="safe", response_label="unsafe"),
            _cell("benign", "safe", prompt_label="safe", response_label="safe"),
        ),
        without={"prompt": ("redacted",)},
        files=("aegis/test.jsonl",),
        hub=HubSource("nvidia/Aegis-AI-Content-Safety-Dataset-2.0", Form(), split="test"),
        note="refusals count as safe; requests that the source redacted are left out",
    ),
}
"""Public sets. None is copied into the project."""


def labelled_names() -> tuple[str, ...]:
    """Names of sets of labelled answers that need no path."""
    return (CORE, *LABELLED)
