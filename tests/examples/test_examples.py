"""The examples, run: a package of one's own, a suite from Python, and a workflow for other repositories."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import packages
import pytest
import yaml

from rfbench import run_suite
from rfbench.cli import build_parser
from rfbench.data.catalog import DatasetSpec
from rfbench.data.load import load_behaviors
from rfbench.run.suite.load import load_suite

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LOOSE = ["canary.min_harmful=0.0", "canary.max_benign=1.0", "generation.max_new_tokens=4"]
"""Settings with which a random model gets through."""


def steps() -> Iterator[str]:
    """The shell scripts of the workflow."""
    workflow = yaml.safe_load((EXAMPLES / "ci/workflow.yml").read_text())
    return (step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the example as if installed."""
    project = tomllib.loads((EXAMPLES / "plugin/pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    packages.install(site, project["name"], project["entry-points"], {}, version=project["version"])
    for folder in (site, EXAMPLES / "plugin"):
        monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("plugin")
def test_the_package_brings_an_attack_and_datasets(tmp_path: Path, tiny_llama: Path) -> None:
    run = run_suite(
        EXAMPLES / "plugin/suite.yaml",
        models=[str(tiny_llama)],
        out=tmp_path / "run",
        overrides=LOOSE,
        offline=True,
        progress=False,
    )
    polite = run.records[(run.records["attack_label"] == "polite") & run.records["model"].isin(run.models)]
    assert set(polite["attack"]) == {"rfbench_polite.attack:Polite"}
    assert dict(zip(polite["dataset"], polite["is_harmful"], strict=True)) == {
        "neighbours/harmful": True,
        "neighbours/twin": False,
    }
    assert set(polite["attempt_idx"]) == {0, 1, 2}
    assert polite.loc[polite["attempt_idx"] == 1, "messages"].str.contains("Please, Please: How do I").all()
    assert set(run.summary()["metric"]) >= {"dsr", "false_alarm"}


@pytest.mark.usefixtures("plugin")
def test_the_data_of_the_package_is_twins() -> None:
    harmful, twins = (load_behaviors(DatasetSpec(name=f"neighbours/{name}")) for name in ("harmful", "twin"))
    assert {b.behavior_id: b.twin_id for b in harmful} == {b.twin_id: b.behavior_id for b in twins}
    assert len(harmful) == 2


def test_the_script_prints_how_likely_flags_are(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_llama), str(tmp_path / "run"), *LOOSE]
    monkeypatch.setattr("sys.argv", ["run_suite.py", *arguments])
    runpy.run_path(str(EXAMPLES / "run_suite.py"))
    out = capsys.readouterr().out
    probabilities = [
        float(p) for p in re.findall(r"^P\(flag\) under \w+, \w+: median ([\d.]+) of 4$", out, re.MULTILINE)
    ]
    assert len(probabilities) == 4  # two attacks, asked for harm and for none
    assert all(0 <= p <= 1 for p in probabilities)
    assert "nan" not in out.lower()
    assert (tmp_path / "run/report.html").is_file()


def test_the_readme_prints_how_likely_flags_are(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    first, found, _ = block.replace("smollm2+redflag", str(tiny_llama)).partition("\nrun = run_suite(")
    assert found
    exec(first, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(0 <= float(line.split()[1].rstrip(":")) <= 1 for line in lines)


def test_the_workflow_installs_a_wheel_and_no_tools_of_developers() -> None:
    text = "\n".join(steps())
    assert 'pip install "$RFBENCH_WHEEL"' in text
    assert "make" not in text
    assert "[dev" not in text
    for script in steps():
        if (bash := shutil.which("bash")) is not None:
            assert subprocess.run([bash, "-n"], input=script, text=True, check=False).returncode == 0, script


def test_the_commands_of_the_workflow_are_there_and_its_suite_is_in_order() -> None:
    found = [
        shlex.split(command) for script in steps() for command in re.findall(r"\brfbench (?=[a-z]+ )[^;\n]*", script)
    ]
    assert {words[1] for words in found} == {"validate", "run", "report"}
    suites: set[str] = set()
    for words in found:
        arguments = build_parser().parse_args(words[1:])
        suites |= {arguments.suite} if "suite" in arguments else set()
    assert suites == {"./rfbench.yaml"}
    suite = load_suite(str(EXAMPLES / "ci/rfbench.yaml"))
    assert {rule.metric for rule in suite.gate} == {"dsr", "false_alarm"}


def test_what_the_workflow_keeps_holds_no_completions() -> None:
    workflow = yaml.safe_load((EXAMPLES / "ci/workflow.yml").read_text())
    kept = [step["with"]["path"] for step in workflow["jobs"]["gate"]["steps"] if "upload" in step.get("uses", "")]
    names = {Path(line).name for paths in kept for line in paths.split()}
    assert names == {"summary.csv", "summary.md", "gate.md", "gate.xml", "report.html"}
    assert "--include-text" not in "\n".join(steps())


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", ["small.yaml", "plugin/suite.yaml", "ci/rfbench.yaml"])
def test_suites_of_the_examples_are_in_order(name: str) -> None:
    assert load_suite(str(EXAMPLES / name)).models
