"""Public files that are fetched: pinned, checked, kept. Downloads are functions here; no test goes online."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rfbench.data.catalog import DatasetSpec
from rfbench.data.download import PublicCopy, PublicFile, fetch, self_instruct_prompts
from rfbench.data.load import load_behaviors
from rfbench.data.registry import ENTRIES
from rfbench.errors import DataError

COMMIT = "0" * 40
COPIES = [
    copy for entry in ENTRIES.values() if entry.public for copy in (entry.public.rows, entry.public.targets) if copy
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def public_copy(content: bytes = b"abc", **changes: str) -> PublicCopy:
    file = PublicFile("owner/name", COMMIT, "x/rows.csv", changes.get("file", sha256(content)))
    return PublicCopy(name="set/rows.csv", sha256=changes.get("copy", sha256(content)), files=(file,))


def serving(files: Mapping[str, bytes]) -> tuple[Callable[[str], bytes], list[str]]:
    asked: list[str] = []

    def download(url: str) -> bytes:
        asked.append(url)
        if url not in files:
            raise OSError("no route to host")
        return files[url]

    return download, asked


URL = f"https://raw.githubusercontent.com/owner/name/{COMMIT}/x/rows.csv"


def test_a_file_is_fetched_once_and_again_when_it_is_damaged() -> None:
    copy = public_copy()
    download, asked = serving({URL: b"abc"})
    for _ in range(2):
        fetch(copy, download=download)
    assert asked == [URL]
    assert copy.cached.read_bytes() == b"abc"
    copy.cached.write_bytes(b"cut")
    fetch(copy, download=download)
    assert copy.cached.read_bytes() == b"abc"
    assert len(asked) == 2
    fetch(copy, offline=True, download=download)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("copy", "served", "offline", "says"),
    [
        (public_copy(), {}, False, "cannot be fetched (no route to host); go online, or put set/rows.csv below the"),
        (public_copy(), {URL: b"other"}, False, "expected ba7816bf"),
        (public_copy(copy="f" * 64), {URL: b"abc"}, False, "set/rows.csv: SHA-256 is ba7816bf"),
        (public_copy(), {URL: b"abc"}, True, "and this run is offline"),
    ],
)
def test_what_cannot_be_had_or_is_not_what_was_pinned_is_one_line(
    copy: PublicCopy, served: Mapping[str, bytes], offline: bool, says: str
) -> None:
    download, asked = serving(served)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        fetch(copy, offline=offline, download=download)
    assert "RFBENCH_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert asked == ([] if offline else [URL])
    assert not copy.cached.exists()


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(DataError, match="cannot be kept"):
        fetch(public_copy(), download=serving({URL: b"abc"})[0])


def test_instruction_and_input_are_joined() -> None:
    seed = {"instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}, {"input": "no", "output": ""}]}
    user = {"instruction": "Greet “me”.", "instances": [{"input": "", "output": "Hi"}]}
    made = self_instruct_prompts([json.dumps(task).encode() + b"\n" for task in (seed, user)])
    assert made.decode() == (
        '{"source": "seed", "prompt": "Add.\\n1 + 1"}\n{"source": "user_oriented", "prompt": "Greet “me”."}\n'
    )


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.name)
def test_pins_are_pins(copy: PublicCopy) -> None:
    for file in copy.files:
        assert re.fullmatch(r"[0-9a-f]{40}", file.commit)
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    if len(copy.files) == 1:
        assert copy.sha256 == copy.files[0].sha256


@pytest.mark.skipif(not os.environ.get("RFBENCH_DATA"), reason="RFBENCH_DATA is not set: no local copies to compare")
@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.name)
def test_local_copies_are_the_pinned_bytes(copy: PublicCopy) -> None:
    assert sha256((Path(os.environ["RFBENCH_DATA"]) / copy.name).read_bytes()) == copy.sha256


@pytest.mark.skipif(not os.environ.get("RFBENCH_DATA"), reason="RFBENCH_DATA is not set: no local copies to compare")
@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.public])
def test_fetched_data_are_the_local_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, root = DatasetSpec(name=name), Path(os.environ["RFBENCH_DATA"])
    local = load_behaviors(spec)
    monkeypatch.delenv("RFBENCH_DATA")
    with pytest.raises(DataError, match="this run is offline"):
        load_behaviors(spec, offline=True)
    for copy in [copy for copy in COPIES if copy.name.startswith(f"{name}/")]:
        copy.cached.parent.mkdir(parents=True, exist_ok=True)
        copy.cached.write_bytes((root / copy.name).read_bytes())
    assert load_behaviors(spec, offline=True) == local
