"""Reading what a dataset's place holds, a file or the Hub, into rows that know where they stand."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rfbench.data.catalog import DATA_VARIABLE, Origin
from rfbench.data.csvfiles import CSVError, read_csv
from rfbench.data.registry import HubSource
from rfbench.errors import DataError
from rfbench.files.outside import parse_json, read_outside
from rfbench.files.text import says

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""How files in other encodings of Unicode begin, the longer marks first."""
_LINE_END = re.compile(r"\r\n|\r|\n")
MAX_DEPTH = 100
"""Lists and objects within one another that are read: far more than data has, and few enough to walk and to print."""
TOO_DEEP = f"more than {MAX_DEPTH} lists and objects within one another"
MAX_NAMED = 10
"""Problems written out before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source, counted from 1, and the line of the file that it starts on, where there is one."""

    number: int
    line: int | None
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return f"row {self.number}" + (f" (line {self.line})" if self.line is not None else "")


@dataclass(frozen=True, slots=True)
class Table:
    """What a source holds, before it becomes behaviors.

    ``place`` opens every message; ``note`` is what else to say where a column is missing.
    """

    place: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def fail(place: str, problems: Sequence[str]) -> None:
    """Raise the problems that were found with what lies at ``place``, if any.

    Raises:
        DataError: a line for each problem, ten at most and a count of the rest.
    """
    if problems:
        rest = [f"{place}: and {len(problems) - MAX_NAMED} more"] if len(problems) > MAX_NAMED else []
        raise DataError("\n".join([*(f"{place}: {problem}" for problem in problems[:MAX_NAMED]), *rest]))


def read_table(origin: Origin, *, offline: bool = False) -> Table:
    """All that lies at ``origin``; ``offline`` never reaches for the network.

    Raises:
        DataError: it cannot be read, or is not a table; a line for each problem.
    """
    if isinstance(origin.place, HubSource):
        return _read_hub(origin.place, origin.revision, offline)
    place = str(origin.place)
    asked = frozenset(form.columns.get("prompt", "prompt") for form in origin.forms)
    text, note = _decode(_bytes(origin.place), place), ""
    if Path(place).suffix.lower() == ".csv":
        try:
            read, note = read_csv(text, frozenset(map(str.strip, asked)))
        except CSVError as error:
            fail(place, error.problems)
            raise
        found: Iterator[Row] = (Row(number, line, values) for number, (line, values) in enumerate(read, start=1))
    else:
        found = {".jsonl": _read_jsonl, ".json": _read_json}[Path(place).suffix.lower()](text, place, asked)
    rows = tuple(found)
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return Table(place, tuple(columns), rows, note)


def _bytes(file: Traversable) -> bytes:
    try:
        return read_outside(file) if isinstance(file, Path) else file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _decode(data: bytes, place: str) -> str:
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    try:
        text = data.decode(marked or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if marked is not None:
            raise DataError(f"{place}: begins like {marked} and is damaged; save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place}: not UTF-8: byte {data[error.start]:#04x} at offset {error.start}, line {line}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{place}: holds NUL characters, as UTF-16 does when it is taken for UTF-8; save it as UTF-8")
    return text


class _Doubled(dict[str, Any]):
    """An object of JSON in which ``key`` stands twice: only the last of its values would be seen."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    counts = Counter(key for key, _ in pairs)
    doubled = _Doubled(values)
    doubled.key = next(key for key, n in counts.items() if n > 1)
    return doubled


def _doubled(value: object) -> str | None:
    """The first key that stands twice in one object, anywhere within ``value``."""
    if isinstance(value, _Doubled):
        return value.key
    return next((key for part in _inner(value) if (key := _doubled(part)) is not None), None)


def _inner(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_deep(value: object) -> bool:
    """Whether more than ``MAX_DEPTH`` lists and objects lie within one another."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for whole in level for part in _inner(whole)]
    return bool(level)


def _parse(text: str) -> Any:
    """JSON in which no key is lost.

    Raises:
        json.JSONDecodeError: it is none, or too deep to be data.
    """
    try:
        value = parse_json(text, _object)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        problem = TOO_DEEP if isinstance(error.__cause__, RecursionError) else str(error)
        raise json.JSONDecodeError(problem, text, 0) from error
    if _is_deep(value):
        raise json.JSONDecodeError(TOO_DEEP, text, 0)
    return value


def _row_problem(row: Row) -> str | None:
    if not isinstance(row.values, dict):
        return f"{row}: is a {type(row.values).__name__}, not an object"
    key = _doubled(row.values)
    return None if key is None else f"{row}: key {key!r} stands twice in one object; only the last would be read"


def _read_jsonl(text: str, place: str, asked: Collection[str]) -> Iterator[Row]:
    if text.lstrip().startswith("[") and isinstance(_parsed(text), list):  # a list in a file of this name
        yield from _read_json(text, place, asked)
        return
    problems: list[str] = []
    rows: list[Row] = []
    number = 0
    for line, content in enumerate(_LINE_END.split(text), start=1):
        if not content.strip():
            continue
        number += 1
        try:
            row = Row(number, line, _parse(content))
        except json.JSONDecodeError as error:
            problems.append(f"row {number} (line {line}): malformed JSON: {error.msg} at column {error.colno}")
            continue
        if (problem := _row_problem(row)) is not None:
            problems.append(problem)
        rows.append(row)
    fail(place, problems)
    yield from rows


def _parsed(text: str) -> Any:
    try:
        return _parse(text)
    except json.JSONDecodeError:
        return None


def _load_json(text: str, place: str) -> object:
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: malformed JSON on line {error.lineno}, column {error.colno}: {error.msg}") from error


def _read_json(text: str, place: str, asked: Collection[str]) -> Iterator[Row]:
    first = next((line for line in _LINE_END.split(text) if line.strip()), "")
    if isinstance(_parsed(first), dict) and _parsed(text) is None:  # lines in a file of this name
        yield from _read_jsonl(text, place, asked)
        return
    content = _load_json(text, place)
    if isinstance(content, dict) and _is_row(content, asked):  # one line in a file of this name
        content = [content]
    if isinstance(content, _Doubled):
        fail(place, [f"key {content.key!r} stands twice in the outer object; only the last would be read"])
    lists = [value for value in content.values() if isinstance(value, list)] if isinstance(content, dict) else []
    items = content if isinstance(content, list) else lists[0] if len(lists) == 1 else None
    if items is None:
        fail(place, [f"must be a list of objects or an object with one list, found {len(lists)} lists in it"])
        return
    rows = [Row(number, None, values) for number, values in enumerate(items, start=1)]
    fail(place, [problem for row in rows if (problem := _row_problem(row)) is not None])
    yield from rows


def _is_row(content: Mapping[str, Any], asked: Collection[str]) -> bool:
    """Whether an object is a row itself, and not what wraps a table.

    A list of objects in it is the table, unless they are the messages of a conversation in which nothing of the name
    that is ``asked`` for stands. Without any, it is a row if it has that as text, or only text and numbers.
    """
    tables = [v for v in content.values() if isinstance(v, list) and any(isinstance(part, dict) for part in v)]
    if tables:
        return all(_is_message(part) and not any(key in part for key in asked) for table in tables for part in table)
    plain = [key for key, value in content.items() if not isinstance(value, dict | list)]
    return any(key in plain for key in asked) or 0 < len(plain) == len(content)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def read_targets(path: Path) -> Mapping[str, object]:
    """Behavior id -> its target, or a list of targets.

    Raises:
        DataError: the file is not such an object, or an id stands in it twice.
    """
    targets = _load_json(_decode(_bytes(path), str(path)), str(path))
    if not isinstance(targets, dict):
        raise DataError(f"{path}: must be an object of behavior id -> target, or list of targets")
    if (key := _doubled(targets)) is not None:
        raise DataError(f"{path}: {key!r} stands twice; only the last would be read")
    return targets


def _read_hub(hub: HubSource, revision: str, offline: bool) -> Table:
    import datasets
    from huggingface_hub import snapshot_download

    place = str(hub)
    local = Path(hub.id).is_dir()
    try:
        source = hub.id
        if offline and not local:
            source = snapshot_download(hub.id, repo_type="dataset", revision=revision, local_files_only=True)
        data = datasets.load_dataset(source, hub.config, split=hub.split, revision=revision)
    except Exception as error:  # whatever the client libraries raise becomes one line with a remedy
        reason = says(error).rstrip(".")
        ways = f"give path:, put a copy below {DATA_VARIABLE}, or log in to the Hub if the dataset is gated"
        raise DataError(
            f"{place}: cannot be had from the Hub at revision {revision}"
            f"{' without the network' if offline else ''}: {reason}; {ways}"
        ) from error
    if isinstance(data, Mapping):
        if len(data) != 1:
            raise DataError(f"{place}: has the splits {', '.join(data)}; give split:")
        data = next(iter(data.values()))
    if not local and not offline:
        _check_revision(data, place, revision)
    names = {c: f.int2str for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
    rows = tuple(
        Row(number, None, {c: names[c](v) if c in names and v is not None else v for c, v in values.items()})
        for number, values in enumerate(data, start=1)
    )
    return Table(place, tuple(data.column_names), rows)


def _check_revision(data: Any, place: str, revision: str) -> None:
    """The client falls back to any cached revision when the Hub does not answer: refuse that."""
    for file in data.cache_files:
        commit = Path(file["filename"]).parent.name
        if re.fullmatch(r"[0-9a-f]{40}", commit) and not commit.startswith(revision):
            raise DataError(f"{place}: the Hub gave no revision {revision}, and the cache holds another, {commit}")
