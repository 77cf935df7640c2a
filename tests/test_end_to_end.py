"""The main job, with random tiny models; ``test_offline`` does it with the embedded default."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import Started
from runs import assert_same_rows, write_suite

from rfbench.analysis.headline import MAX_LINES
from rfbench.cli import main
from rfbench.records import CONTROLS
from rfbench.run.store.reader import load_run

ATTACKS = [
    "direct",
    "prefill",
    {"name": "sampling", "temperature": [0.7, 1.0], "n_samples": 2},
    {"name": "many_shot", "n_shots": 2},
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """Two random models, with and without a flag, under every black-box attack."""
    models = [
        {"spec": str(tiny_model()), "name": "flagging"},
        {"spec": str(tiny_model(tied=False)), "name": "plain", "flag": "none"},
    ]
    return write_suite(tmp_path_factory.mktemp("suite"), models=models, attacks=ATTACKS, chunk_size=3)


@pytest.fixture(scope="module")
def whole(suite: Path) -> Path:
    """An unbroken run of it; its output is in ``stdout`` beside it."""
    out = suite.parent / "whole"
    with (suite.parent / "stdout").open("w") as stdout, contextlib.redirect_stdout(stdout):
        assert main(["run", str(suite), "--out", str(out), "--offline"]) == 0
    return out


def n_parts(out: Path) -> int:
    return len(list((out / "parts").glob("*.parquet")))


def test_killed_three_times_and_started_again_it_equals_the_unbroken_run(
    suite: Path, whole: Path, tmp_path: Path
) -> None:
    total = n_parts(whole)
    draw = random.Random(17)
    broken = tmp_path / "broken"
    for _ in range(3):
        process = Started("-m", "rfbench.cli", "run", suite, "--out", broken, "--offline")
        before = n_parts(broken)
        # Somewhere in the next quarter of the units, and then at any moment of the unit in flight.
        goal = before + draw.randrange(1, total // 4)
        deadline = time.monotonic() + 240
        while n_parts(broken) < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.05)
        process.kill()
        assert process.wait().returncode == -signal.SIGKILL
        assert before < n_parts(broken) < total
        assert not load_run(broken).complete
    assert main(["run", str(suite), "--out", str(broken), "--offline"]) == 0
    assert_same_rows(whole, broken)
    one, other = (pd.read_csv(folder / "summary.csv") for folder in (whole, broken))
    pd.testing.assert_frame_equal(one, other)


def test_the_tables_hold_what_the_models_did(whole: Path) -> None:
    out = (whole.parent / "stdout").read_text()
    run = load_run(whole)
    assert run.complete
    assert set(run.records["model"]) == {*CONTROLS, "flagging", "plain"}
    assert set(run.records["attack"]) == {"direct", "prefill", "sampling", "many_shot"}
    for name in ("flagging", "plain", *CONTROLS, "sampling", "many_shot", "false_alarm"):
        assert name in out
    assert len(out.splitlines()) <= MAX_LINES
    assert run.records["n_completion_tokens"].between(1, 6).all()
    assert run.records[run.records["model"] == "plain"]["flag_id"].isna().all()
    loaded = run.provenance["loaded"]["flagging"]
    assert loaded["dtype"] == "float32"
    assert loaded["flag_id"] == run.records[run.records["model"] == "flagging"]["flag_id"].iloc[0]


def test_a_run_of_two_models_ends_with_the_two_paired(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = (whole.parent / "stdout").read_text(encoding="utf-8")
    assert "plain against flagging (baseline)" in printed
    assert main(["compare", str(whole), "--baseline", "flagging", "--candidate", "plain"]) == 0
    compared = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("many_shot"))
    differences = re.findall(r"[+-]?\d+ \[[+-]?\d+, [+-]?\d+\]", row)[-2:]
    assert all(difference in compared for difference in differences)
