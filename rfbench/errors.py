"""Errors that reach users. Each carries the exit code that the command line ends with.

Exit codes are relied on from outside: 0 fine, 1 a gate failed, 2 bad usage or configuration,
3 canary, 4 finished but some attempts are unscored, 70 internal error, 74 input/output failed
during the run, 130 interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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


class OutsideError(RfbenchError):
    """What code from outside raised that is no ``Exception``: it asked to end the program, or a library gave up."""


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


@contextlib.contextmanager
def contained(*, may_close: bool = False) -> Iterator[None]:
    """Around code from outside: models, templates, tokenizers, plug-ins. Nothing it raises ends the program by itself.

    ``SystemExit``, of a module that ends the program, and the panics of libraries that are written in Rust are no
    ``Exception``, and would pass every handler: exit codes would then say what nobody has found. An interrupt passes;
    so does, where it ``may_close`` a generator, what closes one.

    Raises:
        OutsideError: such a thing was raised.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        if may_close and isinstance(error, GeneratorExit):
            raise
        text = next(iter(str(error).splitlines()), "")
        raise OutsideError(f"{type(error).__name__} was raised{f': {text}' if text else ''}") from error


OUT_OF_MEMORY = "memory ran out"
_NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; allocations of torch that fail raise a ``RuntimeError``."""
    # Torch's own class is told by its name: nothing heavy is imported here.
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def exit_code(error: Exception) -> int:
    """The exit code that ``error`` ends a run with."""
    if isinstance(error, RfbenchError):
        return error.exit_code
    if is_out_of_memory(error):
        return EXIT_USAGE
    return EXIT_IO if isinstance(error, OSError) else EXIT_INTERNAL


def describe(error: Exception) -> str:
    """``error`` in one line for users; an error that is not one of ours is called an internal error."""
    if isinstance(error, RfbenchError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    if is_out_of_memory(error):
        return f"{OUT_OF_MEMORY}; use a smaller model, batch (--batch-size) or dtype, or a machine with more of it"
    text = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {text} (--verbose shows where; please report it)"
