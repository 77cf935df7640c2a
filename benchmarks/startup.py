"""How long commands take that load no model, beside an interpreter that imports the settings library alone.

    python benchmarks/startup.py [--json] [--rounds 5]

Goal: an answer within a second. Prints the best of some rounds for each, in seconds, and ratios to the bare import.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

COMMANDS = ("list attacks", "list datasets", "validate quick")


def seconds(*command: str) -> float:
    """Of one process, from start to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    variants = {"import pydantic, yaml": ("-c", "import pydantic, yaml")}
    for command in COMMANDS:
        code = f"from rfbench.cli import main; raise SystemExit(main({command.split()}))"
        variants[f"rfbench {command}"] = ("-c", code)
    best = {name: min(seconds(*command) for _ in range(arguments.rounds)) for name, command in variants.items()}
    bare = next(iter(best.values()))
    report = {name: {"seconds": round(value, 2), "ratio": round(value / bare, 2)} for name, value in best.items()}
    for name, figures in report.items():
        print(f"{name}: {figures['seconds']} s, {figures['ratio']} times the bare import")
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
