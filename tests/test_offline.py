"""Nothing is sent anywhere: runs on models that lie on this machine open no connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import cli, environment, write_suite

from rfbench.run.store.reader import load_run

# Imported by the interpreter at start: any attempt to connect or to look up a name fails, and is written down.
GUARD = """
import socket, traceback

def refuse(*args, **kwargs):
    with open({log!r}, "a") as log:
        log.write(repr(args[-1:]) + "".join(traceback.format_stack(limit=8)))
    raise OSError("sockets are blocked")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.fixture
def blocked(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Environment of a process without sockets, and the file that says what was tried."""
    log = tmp_path / "tried"
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD.format(log=str(log)))
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path / 'guard'}:{env['PYTHONPATH']}"
    return env, log


def test_the_guard_guards(blocked: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    env, log = blocked
    done = cli("check", "owner/nothing", env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert log.exists()


@pytest.mark.parametrize("offline", [[], ["--offline"]], ids=["online", "offline"])
def test_a_suite_runs_with_sockets_blocked(
    blocked: tuple[dict[str, str], Path], tmp_path: Path, tiny_llama: Path, offline: list[str]
) -> None:
    env, log = blocked
    suite = write_suite(
        tmp_path / "suite", models=[str(tiny_llama)], attacks=["direct", {"name": "many_shot", "n_shots": 2}]
    )
    done = cli("run", suite, "--out", tmp_path / "run", "--limit", 1, *offline, env=env)
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    assert load_run(tmp_path / "run").complete


@pytest.mark.smollm2
def test_the_default_model_runs_with_sockets_blocked_once_it_is_cached(
    blocked: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    from rfbench.models.embedded import smollm2_folder

    smollm2_folder()
    env, log = blocked
    env.pop("OMP_NUM_THREADS")
    more = ["--limit", 1, "--set", "generation.max_new_tokens=4"]
    done = cli("run", "ci", "--out", tmp_path / "run", *more, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    assert "smollm2" in set(load_run(tmp_path / "run").records["model"])
