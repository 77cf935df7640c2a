"""Attacks that search one behavior at a time, interrupted: they go on and end with what the unbroken search gives."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_forked

from rfbench import load_model
from rfbench.attack import PromptAttack, Resumable, ResumableAttack, find_attack
from rfbench.files.arrays import pack, unpack
from rfbench.models.base import ChatModel
from rfbench.records import Attempt, Behavior
from rfbench.run.craft import craft
from rfbench.run.store.checkpoints import Checkpoints

ATTACKS: dict[str, dict[str, Any]] = {
    "random_search": {"n_steps": 12, "width": 4, "every": 3, "initial": " x" * 6, "first": 2},
    "beast": {"n_tokens": 6, "beams": 3, "draws": 4, "every": 2},
    "embedding": {"n_steps": 7, "every": 2, "initial": " x" * 6, "optimiser": "adam", "step_size": 0.5},
}
BOUNDED = {"n_steps": 5, "every": 1, "where": "request", "bound": "linf", "radius": 0.05}
CASES = [*ATTACKS.items(), ("embedding", BOUNDED)]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[ChatModel]:
    with load_model(str(tiny_llama)) as loaded:
        yield loaded


def made(name: str, fields: dict[str, Any]) -> ResumableAttack:
    attack = find_attack(name).model_validate(fields)
    assert isinstance(attack, ResumableAttack)
    assert isinstance(attack, Resumable)
    return attack


def run(attack: PromptAttack, model: ChatModel, behavior: Behavior) -> Iterator[Attempt]:
    return attack.craft(model, behavior, np.random.default_rng(3))


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_resumed_after_any_attempt_it_goes_on_as_if_never_stopped(
    model: ChatModel, behavior: Behavior, name: str, fields: dict[str, Any]
) -> None:
    whole = list(run(made(name, fields), model, behavior))
    assert len(whole) > 3
    for n in range(1, len(whole) + 1):
        first, second = made(name, fields), made(name, fields)
        attempts = run(first, model, behavior)
        done = [next(attempts) for _ in range(n)]
        state = first.state()
        assert json.loads(state)["step"] == done[-1].step
        second.load_state(state)
        # Its own generator: what was drawn before the interruption is part of the state.
        rest = list(second.craft(model, behavior, np.random.default_rng(99)))
        assert done + rest == whole


@pytest.mark.parametrize(("name", "fields"), ATTACKS.items())
def test_used_again_an_attack_starts_anew(
    model: ChatModel, behavior: Behavior, name: str, fields: dict[str, Any]
) -> None:
    attack = made(name, fields)
    whole = list(run(attack, model, behavior))
    assert list(run(attack, model, behavior)) == whole
    # Progress belongs to one search: the next is on another behavior.
    attack.load_state(attack.state())
    assert list(run(attack, model, behavior)) == []
    other = dataclasses.replace(behavior, behavior_id="b2", prompt="Name a river.")
    assert [a.step for a in run(attack, model, other)] == [a.step for a in whole]


PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from rfbench import load_model
from rfbench.attack import find_attack
from rfbench.run.store.checkpoints import Checkpoints
from rfbench.run.craft import craft
from rfbench.records import Behavior

folder, root, name, fields, behavior, n = sys.argv[1:]


class Doomed(Checkpoints):
    n_saved = 0

    def save(self, work, progress):
        super().save(work, progress)
        self.n_saved += 1
        if self.n_saved == int(n):
            os.kill(os.getpid(), signal.SIGKILL)


with load_model(folder) as model:
    attack = find_attack(name).model_validate_json(fields)
    craft(attack, model, [Behavior(**json.loads(behavior))], 0, Doomed(Path(root), "unit", interval=0.0))
"""


@pytest.mark.parametrize(("name", "fields"), ATTACKS.items())
def test_killed_in_the_middle_and_started_again_it_ends_with_the_same_result(
    model: ChatModel, tiny_llama: Path, behavior: Behavior, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    given_to_it = (json.dumps(fields), json.dumps(dataclasses.asdict(behavior)))
    killed = run_forked("-c", PROGRAM, tiny_llama, tmp_path, name, *given_to_it, "2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    def keeper() -> Checkpoints:
        return Checkpoints(tmp_path, "unit", interval=0.0)

    saved = keeper().load([behavior.behavior_id])
    assert saved is not None
    assert (len(saved.attempts), saved.done) == (2, False)
    whole = [attempt for attempt, _ in craft(made(name, fields), model, [behavior], 0).attempts]
    resumed = craft(made(name, fields), model, [behavior], 0, keeper())
    assert resumed.errors == {}
    assert [attempt for attempt, _ in resumed.attempts] == whole
    # What was done before the kill was not done again: its seconds are those of then.
    assert resumed.attempts[:2] == saved.attempts


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=5))
def test_arrays_in_progress_keep_every_bit(rows: list[bytes]) -> None:
    array = np.frombuffer(b"".join(rows), dtype=np.float32).reshape(len(rows), 2)  # whatever the bits are: NaN, too
    again = unpack(json.loads(json.dumps(pack(array))))
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
