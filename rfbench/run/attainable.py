"""Gates that no result could pass, found before the run from what it plans.

With 32 of 32 behaviors defended the lower end of the interval is 0.893: a gate at 0.9 would fail after the whole run.
So would a gate on rows that the suite does not produce, or on a dsr under an attack without benign requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rfbench.analysis.gate.rules import GateRule, needs_cost
from rfbench.analysis.metrics.names import ACROSS_SEEDS, ASR_JUDGED, LIMITS, MIN_NEGATIVES, n_needed, tpr_name
from rfbench.analysis.metrics.rates import RATES
from rfbench.analysis.metrics.row import MetricRow
from rfbench.analysis.stats import wilson
from rfbench.run.plan import Unit

Cell = tuple[str, str, str, str]
"""Model, attack, its label, dataset."""
_NEEDED = {tpr_name(limit): n_needed(limit) for limit in LIMITS}


def unattainable(rules: Sequence[GateRule], units: Sequence[Unit]) -> Iterator[str]:
    """A line for every rule on a rate that fails whatever comes out, at the behaviors planned.

    Args:
        rules: of the gate; those on figures whose number of behaviors the run decides are passed over.
        units: all of the run, not of one shard.
    """
    asked = _asked(units)
    longest = max((unit.generation.max_new_tokens for unit in units), default=0)
    several_seeds = len({unit.seed for unit in units}) > 1
    for i, rule in enumerate(rules):
        if rule.metric in ACROSS_SEEDS.values() and not several_seeds:
            yield f"gate[{i}]: {rule.metric} is not defined for a single seed; name several under seeds:"
        elif rule.metric in (*RATES, *ACROSS_SEEDS.values()) or rule.metric.startswith(ASR_JUDGED):
            yield from (f"gate[{i}]: {problem}" for problem in _problems(rule, asked, longest))
        elif rule.metric in _NEEDED:
            yield from (f"gate[{i}]: {problem}" for problem in _too_few(rule, asked))


def _asked(units: Sequence[Unit]) -> Mapping[tuple[Cell, bool], int]:
    """Number of harmful (true) and of benign behaviors of every cell; those of several seeds are the same."""
    ids = {
        ((unit.model.label, unit.entry.attack.name, unit.entry.label, dataset), b.is_harmful, b.behavior_id)
        for unit in units
        for dataset, behaviors in unit.groups
        for b in behaviors
    }
    return Counter((cell, is_harmful) for cell, is_harmful, _ in ids)


def _problems(rule: GateRule, asked: Mapping[tuple[Cell, bool], int], longest: int) -> Iterator[str]:
    kind = rule.registered.side == "harmful"
    selected = {
        cell: n
        for (cell, is_harmful), n in sorted(asked.items())
        if is_harmful is kind and rule.covers(MetricRow().at(*cell))
    }
    if not selected:
        where = ", ".join(f"{column}={wanted}" for column, wanted in rule.where.items()) or "every row"
        word = "harmful" if kind else "benign"
        yield f"{rule.metric} of {where}: the suite asks no {word} behavior there, so no result can pass"
        return
    if rule.metric in RATES and longest < RATES[rule.metric].min_new_tokens:
        yield f"{rule.metric} is not defined where {longest} tokens are generated; raise generation.max_new_tokens"
        return
    benign = {cell[:3] for cell, is_harmful in asked if not is_harmful}
    for cell, n in selected.items():
        at = " / ".join((cell[0], *cell[2:]))
        if needs_cost(rule) and cell[:3] not in benign:
            yield (
                f"{rule.metric} on {at}: no benign request is asked under {cell[2]}, and a defence holds only beside "
                "its false alarms; give that attack a benign dataset, or name the attacks that the bound is for"
            )
        for missed in _missed(rule, n):
            yield (
                f"{missed} on {at}, so no result can pass; measure more behaviors, or hold the bound against the value"
            )


def _too_few(rule: GateRule, asked: Mapping[tuple[Cell, bool], int]) -> Iterator[str]:
    """Whether no benign dataset carries the threshold of a true-positive rate."""
    where = {key: value for key, value in rule.where.items() if key != "dataset"}  # that of the harmful ones
    free, needed = rule.model_copy(update={"where": where}), _NEEDED[rule.metric]
    sizes = [n for (cell, is_harmful), n in asked.items() if not is_harmful and free.covers(MetricRow().at(*cell))]
    if max(sizes, default=0) < needed:
        yield (
            f"{rule.metric} needs {needed} benign behaviors under one attack, {MIN_NEGATIVES} above its threshold, and "
            f"at most {max(sizes, default=0)} are asked, so no result can pass; hold a higher rate, or ask more"
        )


def _missed(rule: GateRule, n: int) -> Iterator[str]:
    """Bounds that the best end of an interval over ``n`` behaviors misses."""
    best = {("min", "lo"): wilson(n, n)[0], ("max", "hi"): wilson(0, n)[1]}
    for kind, bound in rule.bounds:
        end = best.get((kind, rule.end))
        if end is not None and (end < bound if kind == "min" else end > bound):
            how = f"all {n}" if kind == "min" else f"none of {n}"
            yield f"{rule.metric} ({rule.end}) is {end:.3f} at best, with {how} behaviors, and {kind} is {bound:g}"
