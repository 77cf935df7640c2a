"""What came from outside is opened so that it can do no harm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rfbench.files.outside import expanded, parse_json, read_outside, special_kind

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices that are files")


def test_a_file_is_read_and_a_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\x00")
    assert read_outside(tmp_path / "file") == b"\xff\x00"
    with pytest.raises(IsADirectoryError):
        read_outside(tmp_path)


@pytest.mark.parametrize(("kind", "words"), [("pipe", "a named pipe"), ("device", "a device"), ("link", "a device")])
def test_what_has_no_end_is_not_opened(tmp_path: Path, kind: str, words: str) -> None:
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    if kind == "link":
        path = tmp_path / "link"
        path.symlink_to("/dev/zero")
    assert special_kind(path) == words
    with pytest.raises(OSError, match=f"it is {words} and no file"):
        read_outside(path)


def test_names_that_no_path_can_have() -> None:
    with pytest.raises(OSError, match="NUL"):
        read_outside(Path("a\0b"))
    with pytest.raises(ValueError, match="NUL"):
        expanded("a\0b")
    with pytest.raises(ValueError, match="~nosuchuser-at-all is no home folder here; write the path out"):
        expanded("~nosuchuser-at-all/x")
    assert expanded("~") == Path.home()
    assert expanded("a~b") == Path("a~b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "too many lists and objects within one another"),
        ('{"a":' * 100_000, "too many lists and objects within one another"),
        ("9" * 10_000, "a number of thousands of digits"),
        ("{", "Expecting property name"),
        (b"\xff\xfe\xff", "can't decode"),
    ],
)
def test_json_that_is_none_is_a_value_error(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_json_that_is_some() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
