"""Kills and storage errors at random moments of a run, in the size of `make test`; `make faults` has a night's."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault_matrix import KINDS, Ended, Process, draw_rounds, is_documented
from faulty_storage import Fault
from runs import environment

COUNT = 50


def test_whatever_strikes_the_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    # A process of its own: it forks, and must not have threads.
    command = [sys.executable, str(Path(__file__).with_name("fault_matrix.py")), "--count", str(COUNT), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    summary, codes = done.stdout.splitlines()
    found = re.fullmatch(
        r"(\d+) faults in \d+ runs: 0 with wrong rows, 0 finished units lost, 0 exit codes .*", summary
    )
    assert found is not None
    assert int(found[1]) >= COUNT
    assert all(f"{kind} " in codes for kind in KINDS)


def test_cases_follow_from_their_seed() -> None:
    one, again, other = (draw_rounds(random.Random(seed), 100) for seed in ("0/1", "0/1", "0/2"))
    assert one == again != other
    faults = [p.fault for n in range(200) for r in draw_rounds(random.Random(n), 100) for p in r if p.fault is not None]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.lasts for fault in faults} == {True, False}
    assert min(fault.at for fault in faults) < 5 < 95 < max(fault.at for fault in faults)


@pytest.mark.parametrize(
    ("kind", "code", "said", "documented"),
    [
        ("SIGKILL", -9, {}, True),
        ("SIGKILL", 0, {}, False),
        ("SIGTERM", 130, {}, True),
        ("SIGTERM", -15, {}, False),
        ("EIO", 74, {}, True),
        ("EIO", 70, {}, False),
        ("EIO", 2, {}, True),
        ("EIO", 2, {"opened": [""]}, False),
        ("ENOSPC", 0, {}, True),
        ("ENOSPC", 0, {"incomplete": ["3 of 5"]}, False),
        ("ENOSPC", 0, {"hit": []}, True),
        ("ENOSPC", 74, {"hit": []}, False),
    ],
)
def test_which_exit_codes_are_documented(kind: str, code: int, said: dict[str, list[str]], documented: bool) -> None:
    ended = Ended(Process(Fault(kind, 0)), code, {"hit": ["write x"], "opened": [], "incomplete": [], **said})  # type: ignore[arg-type]
    assert is_documented(ended) is documented


STRUCK = """
import sys
from pathlib import Path
from faulty_storage import Fault, FaultyStorage
root, kind, at, lasts = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
storage = FaultyStorage(str(root), Fault(kind, at, lasts) if at >= 0 else None)
storage.install()
Path("/dev/null").write_bytes(b"")
errors = []
for name in ("a", "b"):
    try:
        (root / name).write_bytes(b"12345678")
    except OSError as error:
        errors.append(error.errno)
print(storage.n_calls, errors)
"""


@pytest.mark.parametrize(
    ("fault", "said", "left"),
    [
        (("EIO", -1, False), "4 []", {"a": 8, "b": 8}),
        (("EIO", 0, False), "3 [5]", {"b": 8}),
        (("EIO", 1, False), "4 [5]", {"a": 4, "b": 8}),
        (("ENOSPC", 1, True), "3 [28, 28]", {"a": 4}),
        (("SIGKILL", 3, False), "", {"a": 8, "b": 4}),
    ],
)
def test_a_call_goes_wrong_as_it_was_asked(
    tmp_path: Path, fault: tuple[str, int, bool], said: str, left: dict[str, int]
) -> None:
    here = environment()
    here["PYTHONPATH"] = f"{Path(__file__).parent}:{here['PYTHONPATH']}"
    command = [sys.executable, "-c", STRUCK, str(tmp_path), *map(str, fault)]
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert (done.stdout.strip(), done.stderr) == (said, "")
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == left
