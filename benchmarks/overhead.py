"""How much of a run is spent outside the model's forward passes.

    python benchmarks/overhead.py [--json] [--suite quick] [--limit N]

Runs the suite on ``smollm2`` into a temporary folder and times every forward pass by hooks on the module.
Loading the model is reported apart: it is paid once, whatever the length of the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

from rfbench.models.base import ChatModel
from rfbench.models.hf.model import HFModel
from rfbench.models.load import load_model
from rfbench.models.spec import ModelSpec
from rfbench.run.prepare import prepare
from rfbench.run.runner import execute
from rfbench.run.store.writer import RunFolder
from rfbench.run.suite.load import load_suite


class ForwardClock:
    """Sums the seconds between the start and the end of a module's forward passes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def watch(self, module: Any) -> None:
        """Install the hooks."""
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def main() -> None:
    """Print the share of time outside forward passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()

    clock, loading = ForwardClock(), 0.0

    def open_model(spec: ModelSpec) -> ChatModel:
        nonlocal loading
        started = time.perf_counter()
        model = load_model(spec)
        loading += time.perf_counter() - started
        if isinstance(model, HFModel):
            clock.watch(model.module)
        return model

    suite = load_suite(arguments.suite, models=["smollm2"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        session = prepare(suite, limit=arguments.limit)
        run = RunFolder.create_or_open(f"{folder}/run", session.header())
        execute(session.units, run, open_model, suite.canary)
        wall = time.perf_counter() - started
    outside = wall - loading - clock.seconds
    report = {
        "suite": arguments.suite,
        "wall_seconds": round(wall, 2),
        "loading_seconds": round(loading, 2),
        "forward_seconds": round(clock.seconds, 2),
        "outside_seconds": round(outside, 2),
        "overhead": round(outside / (wall - loading), 4),
    }
    print(
        f"{report['wall_seconds']} s in all, {report['loading_seconds']} s loading, {report['forward_seconds']} s in "
        f"forward passes; outside them {report['outside_seconds']} s, {outside / (wall - loading):.1%} of the rest"
    )
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
