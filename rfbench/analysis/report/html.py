"""A run as one HTML page that needs nothing but itself: no network, no script, and no text unless asked for.

Model output is hostile. Pages are therefore built by :mod:`rfbench.analysis.report.markup`, which escapes what it is
given, and a content security policy forbids the page to load or run anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rfbench.analysis import marks
from rfbench.analysis.metrics.leak import LEAK
from rfbench.analysis.metrics.rates import RATES, pair_outcomes
from rfbench.analysis.metrics.row import MetricRow, from_frame
from rfbench.analysis.outcomes import average
from rfbench.analysis.report.chart import chart
from rfbench.analysis.report.markup import Markup, escape, join, tag
from rfbench.analysis.section import (
    ALARMS_NOT_RUN,
    HELD,
    NOT_RUN,
    UNDEFINED,
    Section,
    companion,
    interval,
    percent,
    tokens_interval,
)
from rfbench.analysis.summary import summarize
from rfbench.analysis.tables import RunInfo, layout
from rfbench.records import CONTROLS

if TYPE_CHECKING:
    import pandas as pd

    from rfbench.analysis.run_data import RunData

MAX_UNSCORED = 200
"""Unscored samples that are listed; the rest is counted."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TEXT_WARNING = (
    "This page holds prompts and completions, harmful ones among them, as they were sent and generated. "
    "Do not publish it, and trust nothing in them."
)
_TEXTS_AND_PATHS = frozenset(
    {"spec", "system", "chat_template", "template_args", "template_before", "template_after", "path", "targets"}
    | {"text", "initial", "openings", "messages"}  # fields of attacks
)


def render_report(run: RunData, *, include_text: bool = False) -> str:
    """The report of a run, finished or not.

    Args:
        run: what :func:`rfbench.run.store.reader.load_run` gave.
        include_text: also show prompts, prefills, suffixes and completions, folded up below a warning. Without it no
            text that was sent or generated is in the page.

    Raises:
        ConfigError: one attack label stands for two configurations.
    """
    summary = summarize(run)
    info = RunInfo.of_run(run)
    title = f"rfbench report: {info.suite or run.path.name}"
    parts = [
        tag("h1", title),
        *_marks(info),
        *([tag("p", _TEXT_WARNING, class_="mark")] if include_text else []),
        _settings(run, info),
        tag("h2", "Results"),
        *_results(summary, info),
        *_categories(run.records),
        *_flags(run.records, summary),
        *_unscored(run.records),
        *(_texts(run.records) if include_text else []),
        *_provenance(run),
    ]
    head = (
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        tag("title", title),
        tag("style", Markup(files("rfbench.analysis.report").joinpath("report.css").read_text(encoding="utf-8"))),
    )
    page = tag("html", tag("head", *head), "\n", tag("body", Markup("\n".join(parts))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _marks(info: RunInfo) -> Iterator[Markup]:
    if unfinished := marks.unfinished(info.units_done, info.units_total):
        yield tag("p", f"{unfinished}: these figures will change.", class_="mark")
    if info.canary_accepted:
        yield tag("p", f"{marks.accepted().capitalize()}, and was run all the same.", class_="mark")


def _settings(run: RunData, info: RunInfo) -> Markup:
    models = [name for name in info.flags if name not in CONTROLS]
    versions = run.provenance.get("versions", {})
    entries = [
        ("suite", info.suite),
        *((f"model {i}" if len(models) > 1 else "model", _model(name, info)) for i, name in enumerate(models, 1)),
        ("max_new_tokens", ", ".join(map(str, info.max_new_tokens))),
        ("n_samples", ", ".join(map(str, info.n_samples))),
        ("seeds", ", ".join(map(str, info.seeds))),
        (marks.ACCEPTED, ", ".join(info.canary_accepted)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("started", run.provenance.get("created")),
        ("finished", run.provenance.get("finished")),
    ]
    return tag("dl", *(join((tag("dt", name), tag("dd", value))) for name, value in entries if value))


def _model(name: str, info: RunInfo) -> str:
    flag = info.flags[name]
    return f"{name}, no flag" if flag is None else f"{name}, flag {flag[0]}, flag_bias {flag[1]:+g}"


def _results(summary: pd.DataFrame, info: RunInfo) -> Iterator[Markup]:
    if summary.empty:
        yield tag("p", "No unit is finished yet.")
        return
    rows = from_frame(summary)
    for dataset in dict.fromkeys(row.dataset for row in rows if row.key == "dsr"):
        yield chart(rows, dataset)
    yield from map(table, layout(summary, info.judges))


def table(section: Section) -> Markup:
    """A section as an HTML table that scrolls by itself where it is too wide; the names of its rows are text."""

    def align(column: int) -> dict[str, object]:
        return {"class_": "text"} if column < section.n_names else {}

    head = tag("tr", *(tag("th", name, scope="col", **align(i)) for i, name in enumerate(section.columns)))
    body = [
        tag("tr", *(tag("td", cell, **align(i)) for i, cell in enumerate(row)), class_=_row_class(row[0]))
        for row in section.rows
    ]
    drawn = tag("table", tag("caption", section.title), tag("thead", head), tag("tbody", *body))
    notes = (tag("p", note, class_="note") for note in section.notes)
    return join((tag("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=section.title), *notes))


def _row_class(model: str) -> str:
    return "control" if model in CONTROLS else "model"


# --- breakdowns ---------------------------------------------------------------------------------------------------


def _categories(records: pd.DataFrame) -> Iterator[Markup]:
    """The dsr by category, with its false alarms: two rows per model and category, a column per attack."""
    known = records[~records["model"].isin(CONTROLS) & (records["category"] != "")]
    is_harmful = known["is_harmful"].astype(bool)
    asked, benign = known[is_harmful], known[~is_harmful]
    if asked["category"].nunique() < 2:
        return
    yield tag("h2", "Defended by category")
    for dataset, rows in asked.groupby("dataset", sort=False):
        beside = companion(str(dataset), list(map(str, benign["dataset"].unique())))
        attacks = tuple(map(str, rows["attack_label"].unique()))
        shares = _shares(rows, "dsr") | _shares(benign[benign["dataset"] == beside], "false_alarm")
        models = dict.fromkeys(zip(rows["model"].astype(str), rows["category"].astype(str), strict=True))
        lines = [(*of, metric) for of in models for metric in ("dsr", "false_alarm")]
        yield table(
            Section(
                f"{dataset}: % of behaviors [95 % interval], n behaviors",
                ("model", "category", "metric", *attacks),
                tuple(
                    (*line, *(shares.get((*line, attack), _ABSENT[line[-1]]) for attack in attacks)) for line in lines
                ),
                (
                    f"false_alarm: the same model, attack and category on {beside}." if beside else ALARMS_NOT_RUN,
                    "Categories are small: read the intervals, not the order.",
                    *((HELD,) if any("(" in share for share in shares.values()) else ()),
                ),
            )
        )


_ABSENT = {"dsr": UNDEFINED, "false_alarm": NOT_RUN}


def _shares(rows: pd.DataFrame, metric: str) -> dict[tuple[str, ...], str]:
    """A metric as text by model, category, metric and attack."""
    return {
        (str(model), str(category), metric, str(attack)): _share(cell, metric)
        for (model, category, attack), cell in rows.groupby(["model", "category", "attack_label"], sort=False)
    }


def _share(cell: pd.DataFrame, metric: str) -> str:
    rate = RATES[metric]
    figures = average(pair_outcomes(cell, rate), rate.metric.worse)
    return f"{interval(figures)}, n {figures.n}"


def _flags(records: pd.DataFrame, summary: pd.DataFrame) -> Iterator[Markup]:
    """Leak and P(flag) of the models that have a flag."""
    final = records[records["final"].astype(bool) & records["flag_id"].notna() & ~records["model"].isin(CONTROLS)]
    if (final["verdict"] == "unscored").all():
        return
    leaks = {row.cell: row for row in from_frame(summary) if row.key == LEAK}
    lines: list[tuple[str, ...]] = []
    for (model, attack, dataset), rows in final.groupby(["model", "attack_label", "dataset"], sort=False):
        is_scored = rows["verdict"] != "unscored"
        quantiles = rows.loc[is_scored, "flag_prob_max"].dropna().astype(float).quantile([0.1, 0.5, 0.9])
        figures = ["?" if math.isnan(q) else f"{q:.3f}" for q in quantiles]
        leak = leaks.get((str(model), str(attack), str(dataset)))
        counted = str(int(is_scored.sum())), str(int((~is_scored).sum()))
        lines.append((str(model), f"{attack} / {dataset}", _flagged(rows), tokens_interval(leak), *figures, *counted))
    quantile_names = ("P(flag) 10 %", "50 %", "90 %")
    columns = ("model", "attack / dataset", "flagged", "median leak", *quantile_names, "samples", "unscored")
    notes = (
        "flagged: % of all samples. 40 (60): 40 with the unscored ones held as the worse outcome (not flagged on a "
        "harmful request, flagged on a benign one), 60 as the better one.",
        "median leak: tokens before the flag on harmful requests [95 % interval], inf where fewer than half flag.",
        "samples: those with a verdict. P(flag): quantiles over them of the largest P(flag) at any generated position, "
        "after flag_bias.",
    )
    yield tag("h2", "Red flags")
    yield table(Section("leak and P(flag)", columns, tuple(lines), notes))


def _flagged(rows: pd.DataFrame) -> str:
    """The share of samples with a flag; behind it that if all that is unscored had turned out well."""
    lost = rows["verdict"] == "unscored"
    is_harmful = rows["is_harmful"].astype(bool)
    n_flagged = int(rows.loc[~lost, "flagged"].astype(bool).sum())
    held, hoped = ((n_flagged + int((lost & side).sum())) / len(rows) for side in (~is_harmful, is_harmful))
    n_lost = int(lost.sum())
    value = math.nan if lost.all() else held
    return percent(MetricRow(value=value, value_optimistic=hoped, n=len(rows) - n_lost, n_unscored=n_lost))


def _unscored(records: pd.DataFrame) -> Iterator[Markup]:
    rows = records[records["verdict"] == "unscored"]
    yield tag("h2", "Unscored")
    if rows.empty:
        yield tag("p", "Every sample was scored.")
        return
    listed = rows.head(MAX_UNSCORED)
    names = ("model", "attack_label", "dataset", "behavior_id", "seed", "attempt_idx", "sample_idx", "error")
    body = [
        tag("tr", *(tag("td", value, class_="text") for value in row)) for row in listed[list(names)].to_numpy(object)
    ]
    head = tag("thead", tag("tr", *(tag("th", name, scope="col", class_="text") for name in names)))
    shown = f"{len(rows)} samples" + (f", the first {len(listed)} listed" if len(listed) < len(rows) else "")
    yield tag(
        "p", f"{shown}. An error is never safe: intervals hold however these would have turned out.", class_="note"
    )
    yield tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def _provenance(run: RunData) -> Iterator[Markup]:
    facts = {key: value for key, value in run.provenance.items() if key not in ("plan", "measures", "argv", "sources")}
    facts["units"] = run.units_total
    written = json.dumps(_without_texts(facts), indent=2, ensure_ascii=False, default=str)
    yield tag("h2", "Provenance")
    yield tag("details", tag("summary", "run.json without its plan, paths and texts"), tag("pre", written))


def _without_texts(facts: Any) -> Any:
    """Facts of a run without what is text (system prompts, templates) or names folders of somebody's machine."""
    if isinstance(facts, Mapping):
        return {key: _without_texts(value) for key, value in facts.items() if key not in _TEXTS_AND_PATHS}
    return [_without_texts(value) for value in facts] if isinstance(facts, (list, tuple)) else facts


# --- text, only if asked for --------------------------------------------------------------------------------------


def _texts(records: pd.DataFrame) -> Iterator[Markup]:
    """Every final sample, folded up by model and attack, dataset, sample; controls say nothing of interest."""
    final = records[records["final"].astype(bool) & ~records["model"].isin(CONTROLS)]
    yield tag("h2", "Prompts and completions")
    yield tag("p", _TEXT_WARNING, class_="mark")
    yield from _folded(final, ["model", "attack_label", "dataset"], lambda rows: join(map(_sample, _dicts(rows))))


def _folded(rows: pd.DataFrame, levels: Sequence[str], leaf: Callable[[pd.DataFrame], Markup]) -> Iterator[Markup]:
    if not levels:
        yield leaf(rows)
        return
    for name, part in rows.groupby(levels[0], sort=False):
        yield tag("details", tag("summary", f"{name} ({len(part)})"), *_folded(part, levels[1:], leaf))


def _dicts(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    names = ["behavior_id", "seed", "attempt_idx", "sample_idx", "verdict", "messages", "prefill", "completion"]
    return (dict(zip(names, row, strict=True)) for row in rows[names].to_numpy(object))


def _sample(row: Mapping[str, Any]) -> Markup:
    where = f"{row['behavior_id']}, seed {row['seed']}, attempt {row['attempt_idx']}, sample {row['sample_idx']}"
    turns = [(message["role"], message["content"]) for message in json.loads(row["messages"])]
    texts = [*turns, *([("prefill", row["prefill"])] if row["prefill"] else []), ("completion", row["completion"])]
    shown = (join((tag("p", name, class_="note"), tag("pre", text))) for name, text in texts)
    return tag("details", tag("summary", f"{where}: {row['verdict']}"), *shown)
