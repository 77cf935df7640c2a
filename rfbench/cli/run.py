"""What ``rfbench run`` and ``rfbench check`` do, and where the other commands are.

Each command takes parsed arguments and returns an exit code; output goes to stdout.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfbench.errors import (
    EXIT_GATE,
    EXIT_IO,
    EXIT_OK,
    EXIT_UNSCORED,
    CanaryError,
    ConfigError,
    ModelsFailed,
    exit_code,
)
from rfbench.run.suite.load import CanaryBounds, Suite, load_suite

if TYPE_CHECKING:
    import pandas as pd

    from rfbench.records import Run
    from rfbench.run.plan import Work
    from rfbench.run.store.writer import RunFolder

logger = logging.getLogger(__name__)

Command = Callable[[Namespace], int]
_HOMES = {
    "run": "rfbench.cli.run",
    "check": "rfbench.cli.run",
    "train": "rfbench.cli.train",
    "export": "rfbench.cli.train",
    "score": "rfbench.cli.results",
    "table": "rfbench.cli.results",
    "compare": "rfbench.cli.results",
    "report": "rfbench.cli.results",
    "show": "rfbench.cli.results",
    "list": "rfbench.cli.listing",
    "validate": "rfbench.cli.listing",
    "schema": "rfbench.cli.listing",
}


def find_command(name: str) -> Command:
    """The function of a command, from a module that imports only what it needs."""
    command: Command = getattr(import_module(_HOMES[name]), f"{name}_command")
    return command


def run_command(arguments: Namespace) -> int:
    """Run a suite, print its table, and hold the gate against it if asked."""
    if arguments.executor == "ray":
        raise ConfigError("--executor ray is not in this version; start a `--shard I/N` per machine on a shared --out")
    suite = suite_of(arguments)
    if arguments.gate and not suite.gate:
        raise ConfigError(f"suite {suite.name!r} has no `gate:`; write one, or leave --gate out")
    from rfbench.analysis.render import write_tables
    from rfbench.cli.results import print_comparison, print_tables, summarize_run
    from rfbench.run.attainable import unattainable
    from rfbench.run.plan import shard
    from rfbench.run.prepare import prepare
    from rfbench.run.store import writer as store

    session = prepare(suite, limit=arguments.limit, offline=arguments.offline)
    if arguments.gate and (problems := list(unattainable(suite.gate, session.units))):
        raise ConfigError("\n".join(problems))
    header = session.header(arguments.argv)
    folder = store.RunFolder.create_or_open(arguments.out or session.default_folder, header, fresh=arguments.fresh)
    failure: ModelsFailed | None = None
    try:
        _execute(arguments, suite, shard(session.work, *arguments.shard), folder)
    except ModelsFailed as error:
        if EXIT_IO in map(exit_code, error.failures.values()):
            raise  # there is nowhere to write tables to
        failure = error
    folder.finish()
    result, summary, info = summarize_run(folder.path)
    write_tables(summary, result.path, run_info=info)
    passed, lines = _gate(suite, folder, result, summary) if arguments.gate and failure is None else (True, [])
    n_unscored = _warn_of_unscored(result)
    print_tables(summary, info)
    if failure is None:
        print_comparison(result)
    sys.stdout.write(f"\n{folder.path}: summary.csv, summary.parquet, summary.md\n")
    sys.stdout.writelines(lines)
    if failure is not None:
        raise failure
    return EXIT_GATE if not passed else EXIT_UNSCORED if n_unscored else EXIT_OK


def _execute(arguments: Namespace, suite: Suite, work: Sequence[Work], folder: RunFolder) -> None:
    """Do what is not done yet. Of a run that was begun before, all verdicts are then read by the readers of today."""
    from tqdm import tqdm

    from rfbench.cli.results import forget_gate
    from rfbench.models.load import load_model
    from rfbench.run.runner import execute

    n_done = len((folder.done() | folder.measured()) & {piece.key for piece in work})
    logger.info("%s: %d of %d units are done", folder.path, n_done, len(work))
    if n_done < len(work):
        forget_gate(folder.path)
    n_rows = 0
    with tqdm(total=len(work), initial=n_done, unit="unit", disable=None, file=sys.stderr) as bar:

        def progress(piece: Work, rows: int) -> None:
            nonlocal n_rows
            n_rows += rows
            bar.set_description_str(piece.label, refresh=False)
            bar.set_postfix_str(f"{n_rows / max(bar.format_dict['elapsed'], 1e-9):.1f} attempts/s", refresh=False)
            bar.update()

        execute(
            work,
            folder,
            lambda spec: load_model(spec, batch_size=arguments.batch_size, offline=arguments.offline),
            suite.canary,
            accept_canary=arguments.accept_canary,
            progress=progress,
        )
    if n_done:
        from rfbench.cli.results import score_again

        _, changed = score_again(folder)
        if changed:
            logger.warning("%d verdicts of before were read anew: the rules that read them have changed", changed)


def _warn_of_unscored(result: Run) -> int:
    """How many attempts are unscored, said with the first of what struck."""
    n_unscored = int((result.records["verdict"] == "unscored").sum())
    if n_unscored:
        struck = result.records.loc[result.records["error"] != "", "error"]
        first = f"; the first: {struck.iloc[0]}" if len(struck) else ""
        logger.warning("%d of %d attempts are unscored%s", n_unscored, len(result.records), first)
    return n_unscored


def _gate(suite: Suite, folder: RunFolder, result: Run, summary: pd.DataFrame) -> tuple[bool, list[str]]:
    """Whether every bound holds, and a line for each; written beside the tables, too, with the marks they carry."""
    from rfbench.analysis.gate.results import evaluate, junit_xml, markdown_summary
    from rfbench.cli.results import GATE_FILES, write_text

    if not result.complete:
        raise ConfigError(
            f"a gate needs a finished run: INCOMPLETE {result.units_done}/{result.units_total} units; run the other "
            "shards, then this command again"
        )
    folder.annotate({"gate": [rule.model_dump(mode="json", exclude_none=True) for rule in suite.gate]})
    results = evaluate(suite.gate, summary)
    marks = [f"canary accepted: {model}" for model in result.provenance.get("canary_accepted", [])]
    for name, text in zip(GATE_FILES, (junit_xml(results, marks), markdown_summary(results, marks)), strict=True):
        write_text(result.path / name, text)
    lines = [f"gate {'ok    ' if outcome.passed else 'FAILED'} {outcome.message}\n" for outcome in results]
    return all(outcome.passed for outcome in results), lines


def check_command(arguments: Namespace) -> int:
    """The canary alone, the self-check at load included."""
    from rfbench.models.spec import ModelSpec

    spec = ModelSpec.parse({"spec": arguments.model, **_model_overrides(arguments)})
    problems = spec.check(Path())
    if problems:
        raise ConfigError("\n".join(problems))
    from rfbench.models.load import load_model
    from rfbench.run.canary import run_canary

    with load_model(spec, batch_size=arguments.batch_size, offline=arguments.offline) as model:
        _print_facts(model.describe())
        report = run_canary(model, CanaryBounds())
    if report.harmful_rate is None or report.benign_rate is None:
        sys.stdout.write("flag: none; only refusal columns can be computed, and the behavioural canary needs a flag\n")
        if report.problem:
            raise CanaryError(f"canary: {report.problem}")
        return EXIT_OK
    sys.stdout.write(
        f"flags {report.harmful_rate:.0%} of {report.n_harmful} harmful prompts (at least "
        f"{report.bounds.min_harmful:.0%}), {report.benign_rate:.0%} of {report.n_benign} benign ones "
        f"(at most {report.bounds.max_benign:.0%})\n"
    )
    if report.problem:
        raise CanaryError(f"canary: {report.problem}")
    sys.stdout.write("canary: ok\n")
    return EXIT_OK


def _print_facts(facts: Mapping[str, object]) -> None:
    for name in (
        "name",
        "dtype",
        "device",
        "flag_token",
        "flag_id",
        "flag_bias",
        "eos_ids",
        "max_context",
        "self_check",
    ):
        if name in facts:
            sys.stdout.write(f"{name}: {facts[name]}\n")


def suite_of(arguments: Namespace) -> Suite:
    """The suite that a command line names, with everything that the command line overrides."""
    return load_suite(
        arguments.suite,
        models=arguments.model,
        overrides=arguments.overrides,
        model_overrides=_model_overrides(arguments),
        seed=arguments.seed,
    )


def _model_overrides(arguments: Namespace) -> dict[str, Any]:
    names = ("flag", "device", "dtype", "system")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
