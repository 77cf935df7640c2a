"""Tables of given answers: one of the cells, one of what tells them apart, and one by turns where there are several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rfbench.analysis.metrics.names import ANSWER_FLAGGED, TURN_FLAGGED, placed
from rfbench.analysis.metrics.row import MetricRow
from rfbench.analysis.section import UNDEFINED, Section, clean, figure_text, interval, score

_REQUESTS = ("harmful", "twin", "neutral", "benign", "unknown")
_ANSWERS = ("harmful", "refusal", "safe")
_CELLS = (
    "Given answers, read under teacher forcing: % flagged at some position once a token of the answer has been read. "
    "harmful, refusal, safe: what the answer holds. n: groups of answers to the same request.",
)
_FIGURES = (
    "answer effect: % flagged of harmful answers less that of safe ones to the same request. request effect: of safe "
    "answers to a harmful request less that of the same to its twin.",
    "auroc, tpr: harmful against harmless answers by the largest P(flag); same requests: only answers to harmful "
    "requests that have both kinds. delay: median tokens of harm before the flag (inf: fewer than half flagged). false "
    "flags: positions flagged in 1,000 of text without harm.",
)


def answer_sections(rows: Sequence[MetricRow]) -> Iterator[Section]:
    """The tables of each dataset of given answers, in the order in which they come.

    Args:
        rows: figures of the measure ``answers``, those of all models.
    """
    for dataset in dict.fromkeys(row.dataset for row in rows):
        of_dataset = [row for row in rows if row.dataset == dataset]
        by_model = {model: _of(model, of_dataset) for model in dict.fromkeys(row.model for row in of_dataset)}
        name = clean(dataset)
        yield from _cells(f"given answers: {name}, % flagged [95 % interval]", "request", ANSWER_FLAGGED, by_model)
        yield _figures(f"reading the answer: {name} [95 % interval]", by_model)
        yield from _cells(f"given answers by turn: {name}, % flagged [95 % interval]", "turn", TURN_FLAGGED, by_model)


def _of(model: str, rows: Sequence[MetricRow]) -> dict[str, MetricRow]:
    return {row.metric: row for row in rows if row.model == model}


def _cells(title: str, first: str, prefix: str, by_model: Mapping[str, Mapping[str, MetricRow]]) -> Iterator[Section]:
    """A row per model and kind of request, or turn; nothing where no model has such cells."""
    lines = []
    for model, figures in by_model.items():
        cells = {name.removeprefix(prefix).partition("/")[0] for name in figures if name.startswith(prefix)}
        for cell in sorted(cells, key=lambda cell: _REQUESTS.index(cell) if cell in _REQUESTS else int(cell)):
            of_cell = [figures.get(f"{prefix}{cell}/{answer}") for answer in _ANSWERS]
            n = max(int(row.n) for row in of_cell if row is not None)
            lines.append((clean(model), clean(cell), *map(interval, of_cell), str(n)))
    if lines:
        yield Section(title, ("model", first, *_ANSWERS, "n"), tuple(lines), _CELLS)


def _figures(title: str, by_model: Mapping[str, Mapping[str, MetricRow]]) -> Section:
    known = [metric for metric in placed("answers") if any(metric.name in figures for figures in by_model.values())]
    lines = []
    for model, figures in by_model.items():
        cells = [_text(figures.get(metric.name)) for metric in known]
        n = max((int(row.n) for name, row in figures.items() if "@" not in name), default=0)
        lines.append((clean(model), *cells, str(n)))
    headings = tuple(metric.heading for metric in known)
    return Section(title, ("model", *headings, "n"), tuple(lines), _FIGURES, n_names=1)


def _text(row: MetricRow | None) -> str:
    if row is None:
        return UNDEFINED
    return score(row) if row.metric.endswith("auroc") else figure_text(row)
