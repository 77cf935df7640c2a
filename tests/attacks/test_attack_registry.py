"""Attacks are found by scanning the folder, by name or by import path."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rfbench.attacks
from rfbench.attack import PromptAttack, attack_names, find_attack
from rfbench.errors import ConfigError

ROOT = Path(__file__).parents[2]
ONE_ATTACK = '''
"""An attack that somebody wrote."""

from rfbench.attack import PromptAttack
from rfbench.records import Attempt


class Shout(PromptAttack):
    """Ask loudly, https://example.org/shout."""

    version = 1
    source = "https://example.org/shout"

    def craft(self, model, behavior, rng):
        """Yield the one attempt."""
        yield Attempt(behavior.behavior_id, messages=[{"role": "user", "content": behavior.request.upper()}])
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the registry scans beside ``attacks/``."""
    monkeypatch.setattr(rfbench.attacks, "__path__", [*rfbench.attacks.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("rfbench.attacks."):
            del sys.modules[name]
            vars(rfbench.attacks).pop(name.rpartition(".")[2], None)


def test_names_are_the_modules_of_the_folder() -> None:
    files = {p.stem for p in (ROOT / "attacks").glob("*.py") if not p.stem.startswith("_")}
    assert set(attack_names()) == files
    assert list(attack_names()) == sorted(attack_names())


def test_find_by_name() -> None:
    cls = find_attack("direct")
    assert issubclass(cls, PromptAttack)
    assert cls.__name__ == "Direct"


def test_a_near_miss_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"^unknown attack 'prefil'; did you mean 'prefill'\?$"):
        find_attack("prefil")


def test_a_far_miss_gets_the_list() -> None:
    with pytest.raises(ConfigError, match=r"unknown attack 'zzz'; there are: .*direct.*many_shot.*prefill.*sampling"):
        find_attack("zzz")


@pytest.mark.parametrize("name", ["", "../direct", "_private", "direct.Direct"])
def test_odd_names_are_unknown_and_never_imported(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown attack"):
        find_attack(name)


def test_find_by_import_path() -> None:
    cls = find_attack("doubles:FakeOptimizer")
    assert cls().name == "doubles:FakeOptimizer"
    assert find_attack(cls().name) is cls
    assert find_attack("rfbench.attacks.direct:Direct") is find_attack("direct")
    assert find_attack("rfbench.attacks.direct:Direct")().name == "direct"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere.at.all:Attack", "cannot be imported: No module named 'nowhere'"),
        ("doubles:Missing", "cannot be imported: module 'doubles' has no attribute 'Missing'"),
        ("doubles:ScriptedModel", "is not a subclass of rfbench.attack.PromptAttack or WeightAttack"),
        ("doubles:text_ids", "is not a subclass"),
    ],
)
def test_a_bad_import_path_says_why(path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(path) + ".*" + re.escape(problem)):
        find_attack(path)


def test_an_attack_dropped_into_the_folder_is_found(folder: Path) -> None:
    (folder / "shout.py").write_text(ONE_ATTACK)
    assert "shout" in attack_names()
    assert find_attack("shout")().name == "shout"
    assert find_attack("shout")().params == "{}"


def test_files_with_an_underscore_are_no_attacks(folder: Path) -> None:
    (folder / "_helpers.py").write_text(ONE_ATTACK)
    assert "_helpers" not in attack_names()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from rfbench.attack import PromptAttack", 0),  # an imported class is not the module's own
        (ONE_ATTACK.replace("class Shout", "class _Shout"), 0),
        (ONE_ATTACK + ONE_ATTACK.replace("class Shout", "class Whisper"), 2),
    ],
)
def test_a_module_must_hold_exactly_one_public_attack(folder: Path, source: str, found: int) -> None:
    (folder / "odd.py").write_text(source)
    with pytest.raises(ConfigError, match=rf"rfbench.attacks.odd must hold exactly one .* found {found}"):
        find_attack("odd")


def test_a_base_class_in_a_private_name_is_no_second_attack(folder: Path) -> None:
    source = ONE_ATTACK.replace("class Shout(PromptAttack)", "class _Base(PromptAttack)")
    (folder / "derived.py").write_text(
        f'{source}\n\nclass Derived(_Base):\n    """Same, https://example.org/shout."""\n'
    )
    assert find_attack("derived").__name__ == "Derived"


def test_the_example_in_contributing_works_as_printed(folder: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (name, source), *others = re.findall(r"`attacks/(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert not others
    if name in attack_names():
        pytest.skip(f"attacks/{name}.py is there: somebody has followed the example, and other tests run it")
    (folder / f"{name}.py").write_text(source)
    program = (
        "import sys, rfbench.attacks\n"
        f"rfbench.attacks.__path__.append({str(folder)!r})\n"
        "import pytest\n"
        f"sys.exit(pytest.main(['-p', 'no:cacheprovider', {str(ROOT / 'tests' / 'attacks' / 'test_attacks.py')!r}, "
        f"'-k', '(TestContract or TestCraft) and {name}']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b1[0-9] passed", done.stdout), done.stdout
