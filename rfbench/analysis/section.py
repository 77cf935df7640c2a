"""What tables for people are made of: a section, and the text of its cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfbench.analysis.figures import FIGURES
from rfbench.errors import ConfigError
from rfbench.files.text import did_you_mean

UNDEFINED = "-"
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
    # Code points that Unicode has set aside for ever.
    r"|[\ufdd0-\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 forbids in a document, escaped or not (https://www.w3.org/TR/xml/#charsets)."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table: ``columns`` are headings, ``rows`` cells, of which the first ``n_names`` say what a row is about."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    n_names: int = 2

    @property
    def name(self) -> str:
        """What the section is asked for by: its title up to the dataset, in lower case, dashes for all but letters."""
        return re.sub(r"[^a-z_]+", "-", re.split(r": | \[|, %", self.title)[0].lower()).strip("-")


def chosen(sections: Sequence[Section], name: str | None) -> list[Section]:
    """The sections called ``name``, one for each dataset, or all of them without a name.

    Raises:
        ConfigError: there is none.
    """
    found = [section for section in sections if name in (None, section.name)]
    if name is not None and not found:
        names = dict.fromkeys(section.name for section in sections)
        hint = did_you_mean(name, names)
        every = f" There are: {', '.join(names)}" if hint.endswith("?") else ""
        raise ConfigError(f"no section {name!r}; {hint}{every}")
    return found


Metric = Mapping[str, Any]
Cells = Mapping[tuple[str, str, str], Mapping[str, Metric]]
"""(model, attack_label, dataset) -> metric -> its row."""


def companion(dataset: str, benign: Sequence[str]) -> str | None:
    """The benign dataset whose false alarms stand beside ``dataset``: itself, its twin, its family's, or the first."""
    family = dataset.partition("/")[0]

    def distance(name: str) -> tuple[bool, bool, bool]:
        return name != dataset, name.partition("/")[0] != family, "twin" not in name

    return min(benign, key=distance, default=None)


def clean(text: object) -> str:
    """``text`` without terminal sequences, control characters, noncharacters and invisible direction marks; one line.

    Halves of surrogate pairs, which no file can hold, become question marks.
    """
    whole = str(text).encode("utf-8", "replace").decode()
    return _CONTROL.sub("", whole.replace("\n", " ").replace("\t", " "))


def xml_text(text: str) -> str:
    """``text`` with the replacement character for each character that no XML document may hold."""
    return _NOT_XML.sub("\ufffd", text)


def figure_text(metric: Metric | None) -> str:
    """A measured figure with its interval: rates in percent, others with decimals by their size."""
    if metric is None or math.isnan(metric["value"]):
        return UNDEFINED
    if metric["metric"] in FIGURES and FIGURES[metric["metric"]].kind == "rate":
        return interval(metric)
    digits = 3 if abs(metric["value"]) < 10 else 1
    value, lo, hi = (f"{metric[end]:.{digits}f}" for end in ("value", "lo", "hi"))
    return value if math.isnan(metric["lo"]) else f"{value} [{lo}, {hi}]"


def percent(metric: Metric | None) -> str:
    """A rate in percent; ``?`` where it was never scored.

    Behind it, in brackets, the rate if all that is unscored had turned out well, where that is another one.
    """
    if metric is None:
        return UNDEFINED
    if math.isnan(metric["value"]):
        return "?"
    # One behavior in 200 is half a percent: below that a decimal would only pretend.
    digits = 0 if metric["n"] < 200 else 1
    held, hoped = (f"{100 * value:.{digits}f}" for value in (metric["value"], _optimistic(metric)))
    return f"{held} ({hoped})" if is_open(metric) else held


def _optimistic(metric: Metric) -> float:
    hoped = float(metric.get("value_optimistic", math.nan))
    return float(metric["value"]) if math.isnan(hoped) else hoped


def is_open(metric: Metric) -> bool:
    """Whether a figure would be another one if all that is unscored had turned out well."""
    return bool(metric.get("n_unscored")) and not math.isnan(metric["value"]) and _optimistic(metric) != metric["value"]


HELD = (
    "40 (60): 40 with the unscored behaviors held as the worse outcome, 60 as the better one; intervals hold for both."
)
"""The line below a table that has such a figure."""


def held_note(rows: Iterable[Metric]) -> tuple[str, ...]:
    """``HELD``, where a row needs it."""
    return (HELD,) if any(map(is_open, rows)) else ()


def seeds(metric: Metric | None) -> str:
    """The extremes of the single seeds, in percent."""
    if metric is None or math.isnan(metric.get("seeds_min", math.nan)):
        return UNDEFINED
    digits = 0 if metric["n"] < 200 else 1
    return "-".join(f"{100 * metric[end]:.{digits}f}" for end in ("seeds_min", "seeds_max"))


def has_seeds(rows: Iterable[Metric]) -> bool:
    """Whether figures are means over several seeds."""
    return any(not math.isnan(row.get("seeds_min", math.nan)) for row in rows)


def interval(metric: Metric | None) -> str:
    """A rate in percent, with its interval."""
    if metric is None:
        return UNDEFINED
    return f"{percent(metric)} [{100 * metric['lo']:.0f}, {100 * metric['hi']:.0f}]"


def points(difference: float, digits: int = 0) -> str:
    """A difference of rates in points, with its sign."""
    text = f"{100 * difference:+.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"  # neither +0 nor -0


def tokens(metric: Metric | None) -> str:
    """A number of tokens; behind it that if all that is unscored had turned out well, where it is another one."""
    if metric is None or math.isnan(metric["value"]):
        return UNDEFINED
    return f"{metric['value']:.0f}" + (f" ({_optimistic(metric):.0f})" if is_open(metric) else "")


def counts(metric: Metric) -> tuple[str, str]:
    """Behaviors with a verdict, and without one."""
    return str(int(metric["n"])), str(int(metric["n_unscored"]))
