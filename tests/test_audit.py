"""``.ci/audit``: what is known fails the check, and what cannot be asked is skipped in one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit"


@pytest.mark.parametrize(
    ("said", "code", "expected", "line"),
    [
        ("No known vulnerabilities found", 0, 0, ""),
        ("Found 1 known vulnerability in 1 package\npydantic 1.0 PYSEC-1", 1, 1, ""),
        (
            "Traceback\nrequests.exceptions.ConnectionError: no name",
            1,
            0,
            "pip-audit skipped: requests.exceptions.Conne",
        ),
        ("pydantic Dependency not found and could not be audited", 0, 0, "pip-audit skipped: the package index here"),
    ],
)
def test_what_an_audit_ends_with(tmp_path: Path, said: str, code: int, expected: int, line: str) -> None:
    script = tmp_path / "pip-audit"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    script.chmod(0o755)
    done = subprocess.run([AUDIT], capture_output=True, text=True, env={**os.environ, "BIN": str(tmp_path)})
    assert done.returncode == expected
    assert done.stdout.startswith(line)
    assert bool(done.stdout) == bool(line)
    assert ("PYSEC-1" in done.stderr) == (expected == 1)


def test_an_audit_that_is_not_installed_is_skipped(tmp_path: Path) -> None:
    done = subprocess.run([AUDIT], capture_output=True, text=True, env={**os.environ, "BIN": str(tmp_path)})
    assert (done.returncode, done.stdout) == (0, "pip-audit skipped: it is not installed\n")
