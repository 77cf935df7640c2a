"""Reading CSV as people and spreadsheets write it: comments, other delimiters, columns that hold nothing."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from rfbench.files.text import listed

DELIMITERS = (",", ";", "\t")
_LINE_END = re.compile(r"\r\n|\r|\n")
_LINE_WITH_END = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_END = r"(?:\r\n|\r|\n|\Z)"
_QUOTED_COMMENT = r"""[ ]*"\s*\#(?:[^"]|"")*+"(?:[^"\r\n]|"(?:[^"]|"")*+")*+(?=[\r\n]|\Z)"""
_LINE = re.compile(rf"({_QUOTED_COMMENT}|[^\r\n]*){_END}")
"""A line before the header; or, as a spreadsheet quotes a comment with a comma or a line end in it, several."""
_SEPARATOR = re.compile(r"\"?sep=(.)\"?")
"""A first line by which spreadsheets are told the delimiter."""
_MARKED_NAME = re.compile(r"#[\r\n]*[^\s:=]*")
"""The first cell of a header that begins with ``#``: prose, ``columns: id`` and ``version=1`` are comments."""

Record = tuple[int, Mapping[str, str]]
"""The line that a row starts on, and its cells by column."""


class CSVError(ValueError):
    """A file that cannot be read as CSV. ``problems`` holds a line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def read_csv(text: str, asked: Collection[str]) -> tuple[list[Record], str]:
    """The rows below the header, and a note on what was taken for a comment where the header lacks what is asked for.

    Empty lines, and lines that begin with ``#``, quoted or not, may stand before the header. A header may begin with
    ``#`` as well (``#,prompt``; ``#id,prompt``): it is the first such line with one of the columns ``asked`` for of
    which the first cell is ``#`` or ``#`` and a name, unless a line after it repeats names of it or has such a column.
    The delimiter is the comma, or else the semicolon or the tab if that gives one of these columns.
    Columns without a name and without content are left out. Spaces after the delimiters are no part of the cells where
    they stand in the header too.

    Raises:
        CSVError: it is malformed, rows do not fit the header, or columns cannot be told apart.
    """
    start, line, delimiter, note = _find_header(text, asked)
    spaced = _is_spaced(text, start, delimiter)
    lines = list(_lines(text, start))
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    records: list[tuple[int, list[str]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        at = line + reader.line_num
        for cells in reader:
            if cells:
                records.append((at, cells))
            at = line + reader.line_num
    except csv.Error as error:
        hint = "; use JSONL for cells this long" if "field limit" in str(error) else ""
        raise CSVError([f"malformed CSV near line {line + reader.line_num - 1}: {error}{hint}"]) from error
    used = {i for _, cells in records for i, cell in enumerate(cells) if cell}
    kept = [i for i, name in enumerate(header) if name or i in used]
    _refuse_doubles(header, kept)
    last = kept[-1] + 1 if kept else 0
    problems = [
        f"row {number} (line {at}): a space stands before a quotation mark that opens a cell; take it out"
        for number, (at, cells) in enumerate(records, start=1)
        if _has_spaced_quotes(cells, lines, at - line, delimiter)
    ]
    problems = problems or [
        f"row {number} (line {at}): {len(cells)} cells under a header of {len(header)}"
        for number, (at, cells) in enumerate(records, start=1)
        if len(cells) < last or any(cells[len(header) :])
    ]
    problems += [
        f"row {number} (line {at}): is the header again"
        for number, (at, cells) in enumerate(records, start=1)
        if _repeats(header, cells, asked)
    ]
    if problems:
        raise CSVError(problems)
    return [(at, {header[i]: cells[i] for i in kept}) for at, cells in records], note


def _lines(text: str, start: int) -> Iterator[str]:
    """The lines from ``start`` on, with their ends, one at a time: files are long and headers short."""
    return (found[0] for found in _LINE_WITH_END.finditer(text, start))


def _is_spaced(text: str, start: int, delimiter: str) -> bool:
    """Whether all names of the first record but the first stand after a space that is not quoted."""
    plain, skipped = (_record(text, start, delimiter, skip)[1:] for skip in (False, True))
    return len(plain) != len(skipped) or (any(plain) and all(a != b for a, b in zip(plain, skipped, strict=True) if a))


def _has_spaced_quotes(cells: Sequence[str], lines: Sequence[str], first: int, delimiter: str) -> bool:
    """Whether quotation marks count as text as a space stands before them.

    A cell that is quoted as a whole may begin with a space and a quotation mark: in its ``lines``, from index
    ``first`` on, such marks are doubled.
    """
    closing = max((i for i, cell in enumerate(cells) if cell.rstrip().endswith('"')), default=-1)
    suspects = [cell for cell in cells[: closing + 1] if re.match(' +"', cell)]
    if not suspects:
        return False
    last = first + sum(len(_LINE_END.findall(cell)) for cell in cells)
    raw = "".join(lines[first : last + 1])
    return any(re.search(rf"(?:\A|[\r\n{re.escape(delimiter)}]){re.escape(cell)}", raw) for cell in suspects)


def _repeats(header: Sequence[str], cells: Sequence[str], asked: Collection[str]) -> bool:
    """Whether a row gives the column that is asked for, and another if there is one, its own name."""
    again = [name for name, cell in zip(header, cells, strict=False) if name and _plain(cell) == _plain(name) != ""]
    return any(name in asked for name in again) and len(again) >= min(2, sum(map(bool, header)))


def _refuse_doubles(header: Sequence[str], kept: Sequence[int]) -> None:
    names = [header[i] for i in kept]
    problems = [
        f"column {name!r} stands twice in the header" for name, n in sorted(Counter(names).items()) if name and n > 1
    ]
    if len(nameless := [str(i + 1) for i in kept if not header[i]]) > 1:
        columns = " and ".join(nameless) if len(nameless) < 4 else listed(nameless)
        problems.append(f"columns {columns} have no name in the header; name them")
    if problems:
        raise CSVError(problems)


def _find_header(text: str, asked: Collection[str]) -> tuple[int, int, str, str]:
    """Where the header starts, its line (from 1), the delimiter, and a note."""
    marked: list[tuple[int, int]] = []
    told = None
    line = following = 1
    for found in _LINE.finditer(text):
        line, following = following, following + len(_LINE_END.findall(found[0]))
        content = found[1].strip()
        if told is None and (separator := _SEPARATOR.fullmatch(content)):
            told = separator[1]
        elif content.lstrip('" ').startswith("#"):
            marked.append((found.start(), line))
        elif content.strip("".join(DELIMITERS)):
            break
        if found.end() == len(text):
            return _without_rest(text, asked, marked, told)
    start = found.start()
    choices = DELIMITERS if told is None else (told,)
    if delimiter := _delimiter(text, start, asked, choices):
        return start, line, delimiter, ""
    among = _among(text, asked, marked, [*(at for at, _ in marked), start], choices)
    return among or (start, line, _nearly(text, start, asked, choices), _note(marked))


def _without_rest(
    text: str, asked: Collection[str], marked: Sequence[tuple[int, int]], told: str | None
) -> tuple[int, int, str, str]:
    """The header of a file of which every line is empty or begins with ``#``."""
    choices = DELIMITERS if told is None else (told,)
    among = _among(text, asked, marked, [at for at, _ in marked], choices)
    return among or (len(text), 1, choices[0], _note(marked))


def _among(
    text: str,
    asked: Collection[str],
    marked: Sequence[tuple[int, int]],
    starts: Sequence[int],
    choices: Sequence[str],
) -> tuple[int, int, str, str] | None:
    """The first of the marked lines that is a header; ``starts`` are those of all lines that may be one."""
    for start, line in marked:
        if (delimiter := _delimiter(text, start, asked, choices)) is None:
            continue
        first, *others = (cell.strip() for cell in _first_record(text, start, delimiter))
        if not (first in asked or _MARKED_NAME.fullmatch(first)):
            continue
        names = {_plain(name) for name in (first, *others)} - {""}
        later = (_first_record(text, at, each) for at in starts if at > start for each in choices)
        if not any(_plain(cell) in names for cells in later for cell in cells):
            return start, line, delimiter, ""
    return None


def _plain(name: str) -> str:
    """A name by its letters and digits, without case: what ``behavior_id`` and ``BehaviorID`` share."""
    return "".join(char for char in name.casefold() if char.isalnum())


def _first_record(text: str, start: int, delimiter: str) -> list[str]:
    """Its cells; none where they cannot be read."""
    return _record(text, start, delimiter, _is_spaced(text, start, delimiter))


def _record(text: str, start: int, delimiter: str, skip_spaces: bool) -> list[str]:
    try:
        return next(csv.reader(_lines(text, start), delimiter=delimiter, skipinitialspace=skip_spaces), [])
    except csv.Error:
        return []


def _delimiter(text: str, start: int, asked: Collection[str], choices: Sequence[str]) -> str | None:
    """The delimiter under which the first record from ``start`` is a header with a column that is asked for."""
    for delimiter in choices:
        if any(cell.strip() in asked for cell in _first_record(text, start, delimiter)):
            return delimiter
    return None


def _nearly(text: str, start: int, asked: Collection[str], choices: Sequence[str]) -> str:
    """The delimiter under which a column is called nearly what is asked for, for the error; else the first."""
    plain = {_plain(name) for name in asked} - {""}
    for delimiter in choices:
        if any(_plain(cell) in plain for cell in _first_record(text, start, delimiter)):
            return delimiter
    return choices[0]


def _note(marked: Sequence[tuple[int, int]]) -> str:
    if not marked:
        return ""
    if len(marked) == 1:
        return f"; line {marked[0][1]} begins with # and counts as a comment"
    return f"; {len(marked)} lines at the start begin with # and count as comments"
