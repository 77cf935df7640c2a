"""Gates that no result could pass, found before the run: a bound on an end of an interval needs enough behaviors.

Of 32 defended behaviors out of 32 the lower end is 0.893: a suite that asks for 0.9 would take its time and then fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rfbench.gate import GateRule
from rfbench.metrics import RATES
from rfbench.plan import Unit
from rfbench.stats import wilson

_HARMFUL = {rate.name: rate.side == "harmful" for rate in RATES}


def unattainable(rules: Sequence[GateRule], units: Sequence[Unit]) -> Iterator[str]:
    """A line for every bound on an end of a rate that the best possible result misses, at the behaviors planned.

    Args:
        rules: of the gate; those on figures whose number of behaviors the run decides are passed over.
        units: all of the run, not of one shard.
    """
    cells: dict[tuple[str, str, str, str], set[tuple[str, bool]]] = {}
    for unit in units:
        for dataset, behaviors in unit.groups:
            cell = cells.setdefault((unit.model.label, unit.entry.attack.name, unit.entry.label, dataset), set())
            cell.update((b.behavior_id, b.is_harmful) for b in behaviors)
    for i, rule in enumerate(rules):
        if rule.metric not in _HARMFUL:
            continue
        for (model, attack, label, dataset), planned in cells.items():
            row = {"model": model, "attack": attack, "attack_label": label, "dataset": dataset, "metric": rule.metric}
            n = sum(is_harmful is _HARMFUL[rule.metric] for _, is_harmful in planned)
            if n and rule.selects(row):
                yield from (
                    f"gate[{i}]: {problem} on {model} / {label} / {dataset}, so no result can pass; measure more "
                    "behaviors, or hold the bound against the value"
                    for problem in _missed(rule, n)
                )


def _missed(rule: GateRule, n: int) -> Iterator[str]:
    """Bounds that the best end of an interval over ``n`` behaviors misses."""
    best = {("min", "lo"): wilson(n, n)[0], ("max", "hi"): wilson(0, n)[1]}
    for kind, bound in rule.bounds:
        end = best.get((kind, rule.end))
        if end is not None and (end < bound if kind == "min" else end > bound):
            how = f"all {n}" if kind == "min" else f"none of {n}"
            yield f"{rule.metric} ({rule.end}) is {end:.3f} at best, with {how} behaviors, and {kind} is {bound:g}"
