"""What ``rfbench judge`` does."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rfbench.errors import EXIT_OK, ConfigError
from rfbench.files.problems import Problems
from rfbench.files.text import clean
from rfbench.files.yaml_files import override
from rfbench.judges.base import JudgeEntry, find_judge


def judge_command(arguments: Namespace) -> int:
    """Let a judge read a finished run, and write its tables anew."""
    entry = _entry(arguments.judge, arguments.overrides)
    from rfbench.analysis.render import write_tables
    from rfbench.cli.results import summarize_run
    from rfbench.run.judge import judge_run

    judged = judge_run(arguments.run, entry)
    if judged.is_new:
        result, summary, info = summarize_run(Path(arguments.run))
        write_tables(summary, result.path, run_info=info)
        sys.stdout.write(f"{clean(entry.label)}: {judged.n} answers read, {judged.n_unscored} left unscored\n")
    else:
        sys.stdout.write(f"{clean(entry.label)}: has read these {judged.n} answers already; nothing to do\n")
    return EXIT_OK


def _entry(name: str, assignments: list[str]) -> JudgeEntry:
    """The judge that a command line names.

    Raises:
        ConfigError: there is none of this name, or its fields are wrong; all that is wrong is named.
    """
    cls = find_judge(name)
    fields: dict[str, Any] = {}
    for assignment in assignments:
        override(fields, assignment, example="threshold=0.5")
    problems = Problems(f"judge {name}")
    judge = problems.build("", cls, fields)
    if judge is None:
        raise ConfigError("\n".join(problems))
    return JudgeEntry.of(name, judge)
