"""The loop of a run: open each model once, check it, run its units, take its measurements, store each result whole."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rfbench.analysis.marks import ACCEPTED
from rfbench.errors import CanaryError, ModelsFailed, StorageError, contained, describe
from rfbench.models.base import ChatModel
from rfbench.models.spec import ModelSpec
from rfbench.records import Record, canonical_json
from rfbench.run.canary import check_stored, run_canary
from rfbench.run.evaluate import run_unit
from rfbench.run.plan import Measurement, Unit, Work
from rfbench.run.store.checkpoints import Checkpoints, clear_finished
from rfbench.run.store.parts import PartError, decode_part
from rfbench.run.store.reader import PARTS
from rfbench.run.store.writer import RunFolder
from rfbench.run.suite.load import CanaryBounds

logger = logging.getLogger(__name__)

OpenModel = Callable[[ModelSpec], ChatModel]
Progress = Callable[[Work, int], None]
"""Called after every unit and every measurement with the number of records it gave."""


def execute(
    work: Sequence[Work],
    folder: RunFolder,
    open_model: OpenModel,
    bounds: CanaryBounds,
    *,
    accept_canary: bool = False,
    progress: Progress = lambda work, n_rows: None,
) -> None:
    """Run the units and take the measurements that the folder lacks.

    Each model is loaded once, checked by the canary, and freed. ``work`` holds the units of a model before its
    measurements; a measurement opens its reference beside the model.

    One broken model does not stop the others: its error is raised when they are finished. Its unfinished work is not
    stored, so the next run tries it again.

    Raises:
        ModelsFailed: errors by model; a storage error ends the run at once.
    """
    stored = folder.done()
    clear_finished(folder.path, stored)
    done = stored | folder.measured()
    pending = [piece for piece in work if piece.key not in done]
    labels = list(dict.fromkeys(piece.model.label for piece in pending))
    failures: dict[str, Exception] = {}
    for label in labels:
        mine = [piece for piece in pending if piece.model.label == label]
        try:
            with contained():
                _run_model(label, mine, folder, open_model, bounds, accept_canary=accept_canary, progress=progress)
        except StorageError as error:
            failures[label] = error
            break
        except Exception as error:
            failures[label] = error
            logger.debug("%s", label, exc_info=error)
            if label != labels[-1]:
                logger.error("%s: %s; going on with the other models", label, describe(error))
    if failures:
        raise ModelsFailed(failures)


def _run_model(
    label: str,
    work: Sequence[Work],
    folder: RunFolder,
    open_model: OpenModel,
    bounds: CanaryBounds,
    *,
    accept_canary: bool,
    progress: Progress,
) -> None:
    with open_model(work[0].model) as model:
        facts = dict(model.describe())
        remember(folder, label, facts)
        check_attacks(model, work)
        check_model(model, label, folder, bounds, accept=accept_canary)
        for piece in work:
            if isinstance(piece, Measurement):
                take_measurement(model, piece, folder, open_model)
                progress(piece, 0)
            else:
                progress(piece, _run_unit(model, piece, folder))
    # Two workers that note their models at the same moment may overwrite each other.
    remember(folder, label, facts)


def check_attacks(model: ChatModel, work: Sequence[Work]) -> None:
    """Every attack of the work that can be carried out on the model has fields that the model allows.

    Raises:
        ConfigError: one has not.
    """
    for attack in {piece.entry.label: piece.entry.attack for piece in work if isinstance(piece, Unit)}.values():
        if not attack.why_not(model):
            attack.check_model(model)


def _run_unit(model: ChatModel, unit: Unit, folder: RunFolder) -> int:
    """Run and store a unit; the number of its records."""
    checkpoints = Checkpoints(folder.path, unit.key)
    records = run_unit(model, unit, checkpoints)
    folder.write_unit(unit.key, records)
    check_part(folder, unit.key, records)
    checkpoints.clear()
    return len(records)


def take_measurement(model: ChatModel, measurement: Measurement, folder: RunFolder, open_model: OpenModel) -> None:
    """Take and store a measurement; its reference is open for as long as that takes.

    Raises:
        ModelError: the reference cannot be loaded, or the measure does not apply to the model.
    """
    with contextlib.ExitStack() as stack:
        reference = None
        if measurement.reference is not None:
            reference = stack.enter_context(open_model(measurement.reference))
        rows = measurement.measure.rows(model, reference, measurement.behaviors, seed=measurement.seed)
    folder.write_measure(measurement.key, [{**row, "model": measurement.model.label} for row in rows])


def remember(folder: RunFolder, label: str, facts: dict[str, object]) -> None:
    """Write the facts about a loaded model into run.json, unless they are there.

    Raises:
        StorageError: it cannot be written.
    """
    loaded = folder.header().get("loaded", {})
    if canonical_json(loaded.get(label)) != canonical_json(facts):
        folder.annotate({"loaded": {**loaded, label: facts}})


def check_model(model: ChatModel, label: str, folder: RunFolder, bounds: CanaryBounds, *, accept: bool) -> None:
    """The behavioural canary, from which controls are exempt. Its figures become measures of the run.

    Raises:
        CanaryError: the flag rates are outside their bounds, and ``accept`` is false.
    """
    if model.is_control:
        return
    report = run_canary(model, bounds)
    folder.write_measure(f"canary-{label}", [{**row, "model": label} for row in report.rows()])
    loosened = "bounds below the defaults" if bounds.are_loosened and report.harmful_rate is not None else ""
    if report.problem and not accept:
        raise CanaryError(f"canary: {report.problem} (--accept-canary goes on and marks every table)")
    if not (report.problem or loosened):
        return
    accepted = {*folder.header().get("canary_accepted", []), label}
    folder.annotate({"canary_accepted": sorted(accepted)})
    logger.warning("%s: %s: %s", label, ACCEPTED, report.problem or loosened)


def check_part(folder: RunFolder, key: str, records: Sequence[Record]) -> None:
    """What lies on disk for a unit is what was generated; a part that is not is removed, so that it never counts.

    Raises:
        CanaryError: it is not.
    """
    path = folder.path / PARTS / f"{key}.parquet"
    try:
        check_stored(records, _stored_ids(key, path.read_bytes()))
    except (CanaryError, PartError) as error:
        path.unlink(missing_ok=True)
        raise CanaryError(f"canary: {error}") from error


def _stored_ids(key: str, part: bytes) -> dict[tuple[Any, ...], npt.NDArray[np.int32]]:
    """Ids of a unit, by (dataset, behavior_id, attempt_idx, sample_idx)."""
    table = decode_part(key, part)
    names = ("dataset", "behavior_id", "attempt_idx", "sample_idx")
    keys = zip(*(table[name].to_pylist() for name in names), strict=True)
    ids = (np.asarray(row, dtype=np.int32) for row in table["completion_ids"].to_pylist())
    return dict(zip(keys, ids, strict=True))
