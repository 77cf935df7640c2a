"""Errors that reach users. Each carries the exit code that the command line ends with.

Exit codes are relied on from outside: 0 fine, 1 a gate failed, 2 bad usage or configuration,
3 canary, 4 finished but some attempts are unscored, 70 internal error, 74 input/output failed
during the run, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

EXIT_OK = 0
EXIT_GATE = 1
EXIT_USAGE = 2
EXIT_CANARY = 3
EXIT_UNSCORED = 4
EXIT_INTERNAL = 70
EXIT_IO = 74
EXIT_INTERRUPTED = 130

PRECEDENCE = (EXIT_CANARY, EXIT_INTERNAL, EXIT_IO, EXIT_USAGE, EXIT_GATE, EXIT_UNSCORED, EXIT_OK)
"""If several errors occurred, the first of these codes that applies is the exit code."""


class RfbenchError(Exception):
    """An error whose message says in one line what is wrong, where, and the remedy."""

    exit_code = EXIT_INTERNAL


class ConfigError(RfbenchError):
    """Bad usage, a bad configuration, or an output that cannot be written at the start."""

    exit_code = EXIT_USAGE


class SuiteError(ConfigError):
    """Everything that is wrong with a suite, each line ``file: key path: problem``."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(ConfigError):
    """A data file that cannot be used as it is; the message names the rows."""


class ModelError(ConfigError):
    """A model that cannot be found, loaded, or used as a chat model."""


NOT_FINITE = "the model's logits are not finite (too small a dtype, broken weights?)"


class BrokenLogits(ModelError):
    """A model whose logits are not finite: too small a dtype, or weights that are broken."""


class EncodingError(RfbenchError):
    """A conversation that cannot be encoded for this model: its template rejects it, or it exceeds the context."""


class AttackError(RfbenchError):
    """An attack that cannot be carried out on one behavior. Recorded as ``unscored``, never as safe."""


class JudgeError(ConfigError):
    """A judge that cannot judge a run, or whose answer is no score. Nothing of it is kept."""


class BehaviorErrors(AttackError):
    """Errors on some behaviors of a batch; all the others were attacked in full.

    Raised by an attack that batches over behaviors, after its last attempt. ``problems``: error messages by behavior.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("\n".join(self.problems.values()))


class CanaryError(RfbenchError):
    """The model under test does not behave as loaded models must: its numbers would mean nothing."""

    exit_code = EXIT_CANARY


class StorageError(RfbenchError):
    """Input or output failed during a run (full disk, lost mount). What was finished stays readable."""

    exit_code = EXIT_IO


class ModelsFailed(RfbenchError):
    """Models of a run that could not be measured to the end; the other models were.

    ``failures`` holds the errors by model label. The exit code is that of the worst of them. ``folder`` is the run
    folder with what the others gave, ``None`` where its tables could not be written.
    """

    def __init__(self, failures: Mapping[str, Exception], folder: Path | None = None) -> None:
        self.failures = dict(failures)
        self.folder = folder
        self.exit_code = min(map(exit_code, self.failures.values()), key=PRECEDENCE.index)
        super().__init__("\n".join(f"{model}: {describe(error)}" for model, error in self.failures.items()))


def exit_code(error: Exception) -> int:
    """The exit code that ``error`` ends a run with."""
    if isinstance(error, RfbenchError):
        return error.exit_code
    return EXIT_IO if isinstance(error, OSError) else EXIT_INTERNAL


def describe(error: Exception) -> str:
    """``error`` in one line for users; an error that is not one of ours is called an internal error."""
    if isinstance(error, RfbenchError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    text = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {text} (--verbose shows where; please report it)"
