"""Dots and intervals as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from rfbench.analysis.metrics.row import MetricRow
from rfbench.analysis.report.markup import Markup, join, tag
from rfbench.analysis.section import companion, ends
from rfbench.records import CONTROLS

_ROW, _HEAD, _AXIS = 46, 28, 30
"""Heights in pixels; widths are percent, so that the text keeps its size on a narrow screen."""


def chart(rows: Sequence[MetricRow], dataset: str) -> Markup:
    """Dots and 95 % intervals of dsr, and of the false alarms under the same attack, per attack and model.

    Told apart by shape as well as by colour, and said in full in the text of the picture.
    """
    beside = companion(dataset, list(dict.fromkeys(row.dataset for row in rows if row.key == "false_alarm")))
    dsr = {(r.attack_label, r.model): r for r in rows if (r.dataset, r.key) == (dataset, "dsr")}
    alarm = {(r.attack_label, r.model): r for r in rows if (r.dataset, r.key) == (beside, "false_alarm")}
    drawn: list[Markup] = []
    said: list[str] = []
    y = 0.0
    for attack in dict.fromkeys(attack for attack, _ in dsr):
        drawn.append(tag("text", attack, x=0, y=y + 18, class_="head"))
        y += _HEAD
        for model in sorted((m for a, m in dsr if a == attack), key=lambda name: name in CONTROLS):
            metrics = [m for m in (dsr[attack, model], alarm.get((attack, model))) if m and m.is_known]
            known = [f"{m.metric} {100 * m.value:.0f} %" for m in metrics]
            figures = ", ".join(known if (attack, model) in alarm else [*known, "false_alarm not run"])
            drawn.append(tag("text", model, tag("tspan", figures, dx=8, class_="soft"), x=0, y=y + 12))
            drawn += [_dot(metric, y + 23 + 9 * i) for i, metric in enumerate(metrics)]
            said += [f"{model} under {attack}: {m.metric} {100 * m.value:.0f} % {ends(m)}, n {m.n}." for m in metrics]
            y += _ROW
    grid = [tag("line", x1=f"{x}%", x2=f"{x}%", y1=0, y2=y, class_="grid") for x in range(0, 101, 25)]
    anchors = {0: "start", 100: "end"}
    axis = [
        tag("text", f"{x} %", x=f"{x}%", y=y + 18, class_="soft", text_anchor=anchors.get(x, "middle"))
        for x in range(0, 101, 25)
    ]
    label = f"dsr and false_alarm on {dataset}"
    picture = tag(
        "svg",
        tag("title", label),
        tag("desc", " ".join(said)),
        *grid,
        *drawn,
        *axis,
        role="img",
        height=y + _AXIS,
        xmlns="http://www.w3.org/2000/svg",
    )
    note = "false alarms were not run." if beside is None else f"open square: false_alarm on {beside}."
    legend = f"Filled dot: dsr on {dataset}; {note} Lines: 95 % intervals. Controls come last."
    return tag("figure", tag("figcaption", legend), picture)


def _dot(row: MetricRow, y: float) -> Markup:
    is_dsr = row.metric == "dsr"
    style = "dsr" if is_dsr else "alarm"
    at = {name: f"{100 * end:.2f}%" for name, end in (("value", row.value), ("lo", row.lo), ("hi", row.hi))}
    line = tag("line", x1=at["lo"], x2=at["hi"], y1=y, y2=y, class_=style)
    if is_dsr:
        return join((line, tag("circle", cx=at["value"], cy=y, r=4.5, class_=style)))
    return join(
        (line, tag("rect", x=at["value"], y=y, width=7, height=7, transform="translate(-3.5 -3.5)", class_=style))
    )
