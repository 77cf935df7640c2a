"""The records of one model, found by name in a run or by path: one side of a comparison."""

from __future__ import annotations

from pathlib import Path

from rfbench.analysis.compare.side import Side
from rfbench.analysis.section import clean
from rfbench.errors import ConfigError
from rfbench.files.text import did_you_mean
from rfbench.records import CONTROLS, Run
from rfbench.run.store.reader import load_run


def load_side(ref: str, run: Run | None = None) -> Side:
    """One side of a comparison.

    Args:
        ref: a model in ``run``, which comes first; or the path of a run with one model beside the controls; or
            ``PATH:MODEL``.
        run: where names are looked up.

    Raises:
        ConfigError: no such model or run, more than one model to choose from, or an unfinished run.
        StorageError: the run cannot be read.
    """
    if run is not None and ref in _models(run):
        return _side(run, ref)
    path, model = _split(ref)
    if path is None and run is None:
        raise _config_error(f"{ref!r}: there is no such path, and no RUN was given to look up a model's name in")
    if path is None:
        assert run is not None
        _refuse_unfinished(run)
        raise _config_error(f"{ref!r} is no model in {run.path}, nor a path; {did_you_mean(ref, _models(run))}")
    if path.is_file() and path.name != "run.json":
        raise _config_error(f"{path} is a table of rates, and pairing needs single behaviors; give the run folder")
    other = load_run(path)
    _refuse_unfinished(other)
    if model is None:
        choices = [name for name in _models(other) if name not in CONTROLS]
        if len(choices) != 1:
            named = " or ".join(f"{path}:{name}" for name in choices) or "another run"
            raise _config_error(f"{path} holds {len(choices)} models beside the controls; name one: {named}")
        model = choices[0]
    if model not in _models(other):
        raise _config_error(f"{path} holds no model {model!r}; {did_you_mean(model, _models(other))}")
    return _side(other, model)


def _config_error(message: str) -> ConfigError:
    """The error in text that no name of a model or folder can write to the terminal with."""
    return ConfigError(clean(message))


def _split(ref: str) -> tuple[Path | None, str | None]:
    """Path and model of ``PATH`` or ``PATH:MODEL``; a path that is there as a whole wins."""
    if Path(ref).exists():
        return Path(ref), None
    colons = [i for i, char in enumerate(ref) if char == ":"]
    return next(((Path(ref[:i]), ref[i + 1 :]) for i in reversed(colons) if Path(ref[:i]).exists()), (None, None))


def _models(run: Run) -> list[str]:
    return [str(name) for name in run.records["model"].unique()]


def _refuse_unfinished(run: Run) -> None:
    if not run.complete:
        raise _config_error(
            f"{run.path} is INCOMPLETE {run.units_done}/{run.units_total} units: a comparison needs a finished run; "
            "run the same command again to finish it"
        )


def _side(run: Run, model: str) -> Side:
    _refuse_unfinished(run)
    accepted = model in run.provenance.get("canary_accepted", ())
    marks = (f"canary accepted: {model} failed the checks before the run",) if accepted else ()
    records, measures = (table[table["model"] == model] for table in (run.records, run.measures))
    data = run.provenance["configuration"].get("data", {})
    return Side(records, marks, measures, {label: facts["sha256"] for label, facts in data.items()})
