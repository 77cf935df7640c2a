"""Every optimiser through the runner, the scorer and the summary, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import small_plan, small_suite

from rfbench import load_model
from rfbench.analysis.metrics.lost_flags import LOST_FLAGS
from rfbench.analysis.summary import summarize
from rfbench.models.hf.model import HFModel
from rfbench.run.evaluate import run_unit
from rfbench.run.store.checkpoints import Checkpoints

GCG = {"n_steps": 2, "width": 8, "topk": 8, "initial": [" x x x"]}
ENTRIES: list[dict[str, Any]] = [
    {"name": "gcg", **GCG},
    {"name": "gcg", "label": "gcg-nano", "engine": "nanogcg", **GCG},
    {"name": "gcg_adaptive", **GCG},
    {"name": "false_flag", **GCG},
    {"name": "false_flag", "label": "transfer", "learn_from": 2, **GCG},
    {"name": "embedding", "n_steps": 2, "initial": " x x x"},
    {"name": "random_search", "n_steps": 2, "width": 4, "initial": " x x x"},
    {"name": "beast", "n_tokens": 2, "beams": 2, "draws": 4},
]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[HFModel]:
    with load_model(str(tiny_llama)) as loaded:
        assert isinstance(loaded, HFModel)
        yield loaded


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.get("label", entry["name"]))
def test_rows_are_scored_and_summarised(model: HFModel, tmp_path: Path, entry: dict[str, Any]) -> None:
    suite = small_suite(tmp_path, attacks=["direct", entry])
    label = entry.get("label", entry["name"])
    units = [unit for unit in small_plan(suite) if unit.entry.label == label and unit.model.label == "smollm2"]
    records = [row for unit in units for row in run_unit(model, unit, Checkpoints(tmp_path, unit.key, interval=0.0))]
    assert {row.error for row in records} == {""}
    finals = [row for row in records if row.final]
    assert len(finals) == len({(row.dataset, row.behavior_id) for row in records})
    assert all(row.verdict != "unscored" and row.loss is not None and row.n_queries for row in finals)
    assert all(("soft" in json.loads(row.info)) == (entry["name"] == "embedding") for row in records)
    frame = pd.DataFrame([{name: getattr(row, name) for name in row.__slots__} for row in records])
    types = dict.fromkeys(("flagged", "refused", "refused_early", "degenerate"), "boolean")
    metrics = set(summarize(frame.astype(types | dict.fromkeys(("flag_pos", "leak"), "Int64")))["metric"])
    assert {"dsr", "fpr", "false_alarm"} <= metrics
    # Every attack that forces a target on the behaviors themselves shows what it had without the optimisation.
    assert (set(LOST_FLAGS) <= metrics) == (label != "transfer")
