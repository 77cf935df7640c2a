"""What a user's pip would have installed: a wheel, what it requires, and no tool of developers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = ("rfbench", "attacks", "suites", "pyproject.toml", "README.md", "LICENSE")


def build_wheels(folder: Path) -> list[Path]:
    """The wheels of rfbench and of the example plug-in, made of copies: a build leaves files in its sources."""
    sources = folder / "rfbench"
    sources.mkdir(parents=True)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=leave_out)
        else:
            shutil.copy(ROOT / name, sources / name)
    shutil.copytree(ROOT / "examples/plugin", folder / "plugin", ignore=leave_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    subprocess.run([*pip, *offline, str(sources), str(folder / "plugin")], check=True)
    return sorted((folder / "dist").iterdir())


def required(name: str) -> list[str]:
    """The distributions that one requires, and those that they require, as far as they are installed here."""
    found: dict[str, None] = {}
    open_ = [Requirement(text) for text in distribution(name).requires or ()]
    while open_:
        requirement = open_.pop()
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if key in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            further = distribution(key).requires or ()
        except PackageNotFoundError:
            continue
        found[key] = None
        open_ += [Requirement(text) for text in further]
    return list(found)


def link_requirements(folder: Path, names: Iterable[str]) -> None:
    """Put links to all that these distributions installed into a new ``folder``."""
    folder.mkdir()
    for name in names:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


class Shell:
    """Runs scripts as the steps of a workflow: with bash, in one folder, with the variables that steps hand on."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.path_file, self.summary = folder.parent / "GITHUB_PATH", folder.parent / "GITHUB_STEP_SUMMARY"
        self.path_file.touch()
        tools = folder.parent / "tools"
        tools.mkdir()
        # A script, not a link: Python finds its library from where the file called lies.
        (tools / "python").write_text(f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')
        (tools / "python").chmod(0o755)
        kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ}
        self.variables = {
            **kept,
            **{"PATH": f"{tools}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            **{"GITHUB_PATH": str(self.path_file), "GITHUB_STEP_SUMMARY": str(self.summary)},
            **{name: value.replace("${{ github.workspace }}", str(folder)) for name, value in variables.items()},
        }

    def run(self, script: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script with what earlier ones put in front of ``PATH``."""
        added = [line for line in self.path_file.read_text().splitlines() if line]
        path = ":".join([*reversed(added), self.variables["PATH"]])
        return subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.folder,
            env={**self.variables, **(variables or {}), "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, command: str) -> str:
        """What a command writes to stdout; it must succeed."""
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        return done.stdout
