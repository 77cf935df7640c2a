"""Files as people and programs write them give the right rows, or an error that names the cause."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfbench.data import csvfiles
from rfbench.data.catalog import DatasetSpec
from rfbench.data.csvfiles import read_csv
from rfbench.data.load import load_behaviors
from rfbench.data.registry import ENTRIES
from rfbench.errors import ConfigError, DataError
from rfbench.records import Behavior


def read(folder: Path, content: str | bytes, name: str = "x.csv", **spec: Any) -> tuple[Behavior, ...]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_behaviors(DatasetSpec(**{"path": name, "is_harmful": False, **spec}), base=folder)


def prompts(folder: Path, content: str | bytes, name: str = "x.csv", **spec: Any) -> list[str]:
    return [behavior.prompt for behavior in read(folder, content, name, **spec)]


def problem(folder: Path, content: str | bytes, name: str = "x.csv", **spec: Any) -> str:
    with pytest.raises(DataError) as error:
        read(folder, content, name, **spec)
    return str(error.value).replace(f"{folder}/{name}: ", "")


# --- CSV ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "#,prompt,target\n1,how a,Sure\n2,how b,Sure\n",
        "#id,prompt\n1,how a\n2,how b\n",
        "# prompt and target, by hand\n#id,prompt\n#1,how a\n#2,how b\n",
        "# by hand\rprompt,target\rhow a,Sure\rhow b,Sure\r",
        "# by hand\r\n\r\nprompt\r\nhow a\r\n\r\nhow b",
        "\n\n  \nprompt\nhow a\nhow b\n",
        "\n,,\n# then this\n,,\nprompt,target,\nhow a,Sure,\nhow b,,\n",
        "prompt,target,,\nhow a,Sure,,\nhow b,Sure\n",
        "prompt,target\nhow a,Sure,,\nhow b,Sure,\n",
        ",prompt,,\n0,how a,,\n1,how b,,\n",  # the index of a data frame, which has no name
        "prompt;target\nhow a;Sure\nhow b;Sure\n",
        "target\tprompt\nSure\thow a\nSure\thow b\n",
        "sep=;\nprompt;target\nhow a;Sure\nhow b;Sure\n",
        '"sep=|"\r\n# by hand\r\nprompt|target\r\nhow a|Sure\r\nhow b|Sure\r\n',
        '"prompt"\n"how a"\n"how b"\n',
        " prompt , target \nhow a,Sure\nhow b,Sure\n",
        "# a,prompt,c\nprompt,target\nhow a,Sure\nhow b,Sure\n",  # the line after it is the header
        "#id;prompt\n1;how a\n2;how b\n",
        '"# made, by hand",\nid,prompt\n1,how a\n2,how b\n',
        '"# made by hand"\r\n"# of ""ours"", and\r\nprompt, too",""\r\nid,prompt\r\n1,how a\r\n2,how b\r\n',
        ' "# made; by hand";"x\n#";\n"#id";"prompt"\n1;how a\n2;how b\n',
        '"#\nid",prompt\n1,how a\n2,how b\n',
        '"#prompt",prompt\n"1","how a"\n"2","how b"\n',
        '"# never closed\nprompt\n"how a"\n"how b"\n',
        "#row-id\tprompt\n1\thow a\n2\thow b\n",
        "#todo,x\n#,prompt\n1,how a\n2,how b\n",
    ],
)
def test_tables_as_they_are_written(tmp_path: Path, text: str) -> None:
    assert prompts(tmp_path, text) == ["how a", "how b"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [("x.csv", "# é\nprompt\nhow é\n"), ("x.jsonl", '{"prompt": "how é"}\n'), ("x.json", '[{"prompt": "how é"}]')],
)
def test_encodings_that_name_themselves(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    assert prompts(tmp_path, text.encode(encoding), name) == ["how é"]


def test_encodings_that_do_not(tmp_path: Path) -> None:
    assert problem(tmp_path, "prompt\nhow a\n".encode("utf-16-le")).startswith("holds NUL characters, as UTF-16 does")
    assert problem(tmp_path, b"\xff\xfep") == "begins like utf-16 and is damaged; save it as UTF-8"


def test_a_header_of_any_name_is_found_by_the_column_that_is_asked_for(tmp_path: Path) -> None:
    text = "#,#ask,kind\n1,how a,x\n2,how b,y\n"
    columns = {"prompt": "#ask", "behavior_id": "#", "category": "kind"}
    assert [(b.behavior_id, b.prompt, b.category) for b in read(tmp_path, text, columns=columns)] == [
        ("1", "how a", "x"),
        ("2", "how b", "y"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "#prompt,target\nhow a,Sure\nhow b,Sure\n",
            "no column 'prompt' (prompt); there are: how a, Sure; line 1 begins with # and counts as a comment",
        ),
        (
            "# one\n# two\nask\nhow a\n",
            "no column 'prompt' (prompt); there are: ask; 2 lines at the start begin with # and count as comments",
        ),
        ("prompt,,\nhow a,x,y\n", "columns 2 and 3 have no name in the header; name them"),
        (",prompt,\n0,how a,y\n", "columns 1 and 3 have no name in the header; name them"),
        ("prompt,a,prompt \nx,y,z\n", "column 'prompt' stands twice in the header"),
        ("prompt,k\nhow a,b,c\n", "row 1 (line 2): 3 cells under a header of 2"),
        ('"# x\ny",\nprompt,k\n\nhow a\n', "row 1 (line 5): 1 cells under a header of 2"),
        ("\n\n# x\nprompt,k\n\nhow a\n", "row 1 (line 6): 1 cells under a header of 2"),
        ("# x\r\rprompt,k\r,b\r", "row 1 (line 4): empty prompt (column 'prompt')"),
        (
            "# only\n# comments\n",
            "holds no rows; 2 lines at the start begin with # and count as comments",
        ),
        ("\n\n", "holds no rows"),
        ('prompt,k\n"how" a,b\n', "malformed CSV near line 2: ',' expected after '\"'"),
        ('prompt,k\nhow a,"b\nhow c,d\n', "malformed CSV near line 3: unexpected end of data"),
    ],
)
def test_tables_that_cannot_be_read_name_the_cause(tmp_path: Path, text: str, says: str) -> None:
    assert problem(tmp_path, text) == says


class Name(str):
    """Counts how often it is compared."""

    n_compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.n_compared += 1
        return str.__eq__(self, other)


def test_the_work_grows_with_the_columns_and_not_with_their_square() -> None:
    header = [Name(f"c{i}") for i in range(1000)]
    csvfiles._refuse_doubles(header, range(len(header)))
    assert Name.n_compared < 10 * len(header)


def test_very_many_columns_are_named_in_one_line(tmp_path: Path) -> None:
    names = ",".join(f"c{i}" for i in range(60_000))
    found = problem(tmp_path, f"{names}\n{names.replace('c', '')}\n")
    assert found.endswith("c48, c49 and 59950 more")
    found = problem(tmp_path, "," * 60_000 + "prompt\n" + "x," * 60_000 + "how a\n")
    assert found.endswith("48, 49, 50 and 59950 more have no name in the header; name them")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json"])
def test_pipes_and_devices_are_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    spec = DatasetSpec(path=name, is_harmful=True)
    assert spec.check(tmp_path) == [f"{tmp_path / name} is a device and no file; copy what it gives into one"]
    with pytest.raises(DataError, match="is a device and no file"):
        load_behaviors(spec, base=tmp_path)
    assert (
        spec.model_copy(update={"path": "~nosuchuser-at-all/x.csv"})
        .check()[0]
        .endswith("~nosuchuser-at-all is no home folder here; write the path out")
    )


def test_a_data_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFBENCH_DATA", "~nosuchuser-at-all/data")
    with pytest.raises(ConfigError, match=r"RFBENCH_DATA: .* is no home folder here"):
        load_behaviors(DatasetSpec(path="x.csv", is_harmful=True), base=tmp_path)


CALLED = "no column 'prompt' (prompt); did you mean 'Prompt'?"
COMMENT = "line 1 begins with # and counts as a comment"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# columns: id, prompt, category\nID,Prompt,Category\n1,how a,x\n", f"{CALLED}; {COMMENT}"),
        ("#columns:id,prompt\nno,Prompt\n1,how a\n", f"{CALLED}; {COMMENT}"),
        ("#id,prompt,category\nID,Prompt,Category\n1,how a,x\n", f"{CALLED}; {COMMENT}"),
        ("#id,prompt\n\nID;Prompt\n1;how a\n", f"{CALLED}; {COMMENT}"),
        ("# exported 2024, prompt\nid;Prompt\n1;how a\n", f"{CALLED}; {COMMENT}"),
        (
            "#id,prompt\n# by hand\nID,Prompt\n1,how a\n",
            f"{CALLED}; 2 lines at the start begin with # and count as comments",
        ),
        (
            "# prompt, target\n# id, prompt\nid,Goal\n1,how a\n",
            "no column 'prompt' (prompt); there are: id, Goal; 2 lines at the start begin with # and count as comments",
        ),
        (
            "#behavior_id,prompt\nBehaviorID,Goal\n1,how a\n",
            f"no column 'prompt' (prompt); there are: BehaviorID, Goal; {COMMENT}",
        ),
        ('"# made, by hand",\nID,Prompt\n1,how a\n', f"{CALLED}; {COMMENT}"),
        ('"# columns: id","prompt"\nID,Prompt\n1,how a\n', f"{CALLED}; {COMMENT}"),
        ("# version=1, prompt\n1,how a\n2,how b\n", f"no column 'prompt' (prompt); there are: 1, how a; {COMMENT}"),
        # without the mark, the names again are a row that nobody asks
        ("columns: id, prompt, category\nID,Prompt,Category\n1,how a,x\n", "row 1 (line 2): is the header again"),
        ("prompt,k\nhow a,x\nprompt,k\nhow b,y\n", "row 2 (line 3): is the header again"),
        ("Prompt\nprompt\nhow a\n", "row 1 (line 2): is the header again"),
    ],
)
def test_a_comment_that_names_the_column_is_no_header(tmp_path: Path, text: str, says: str) -> None:
    columns = {"prompt": "Prompt"} if text.startswith("Prompt") else {}
    assert problem(tmp_path, text, columns=columns) == says


def test_a_column_that_is_asked_for_with_its_mark_may_be_of_several_words(tmp_path: Path) -> None:
    assert prompts(tmp_path, "# the ask,k\nhow a,x\n", columns={"prompt": "# the ask"}) == ["how a"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('id, prompt\n1, "how, a"\n2, "how ""b"""\n3,how c\n', ["how, a", 'how "b"', "how c"]),
        ('"id", "prompt"\n"1", "how a"\n', ["how a"]),
        ('# by hand\n#; prompt\n1; "how; a"\n', ["how; a"]),
        ('id, prompt, k\n1, " how a", x\n', [" how a"]),
        ('id,prompt\n1, how a\n2," ""how b"""\n', [" how a", ' "how b"']),  # no spaces in the header: they are text
        ('id," prompt"\n1, how a\n', [" how a"]),
        ('id,prompt\n1," ""how"", ""b"""\n2, "how" he said\n', [' "how", "b"', ' "how" he said']),
    ],
)
def test_spaces_after_the_delimiters(tmp_path: Path, text: str, right: list[str]) -> None:
    assert prompts(tmp_path, text) == right


@pytest.mark.parametrize(
    "text",
    [
        'id,prompt\n1, "how a"\n',
        'id,prompt\n1, "how, a"\n',
        'prompt\n "how a"\n',
        'id;prompt\r1;  "how a" \r',
        'id,prompt, k\n1, "how a",x\n',
    ],
)
def test_a_space_before_a_quotation_mark_is_no_text(tmp_path: Path, text: str) -> None:
    says = "row 1 (line 2): a space stands before a quotation mark that opens a cell; take it out"
    assert problem(tmp_path, text) == says


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@given(
    st.lists(st.tuples(CELL, CELL), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "# a, b; c{end}", "{end}{end}", "{end}# é{end}"]),
)
def test_what_a_spreadsheet_writes_is_read(rows: list[tuple[str, str]], delimiter: str, end: str, before: str) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(("prompt", "k"))
    writer.writerows(rows)
    found, note = read_csv(before.format(end=end) + written.getvalue(), {"prompt"})
    assert [(cells["prompt"], cells["k"]) for _, cells in found] == rows
    assert note == ""


# --- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"prompt": "how a"}\n\n{"prompt": "how b"}\n'),
        ("x.json", '{"prompt": "how a"}\r{"prompt": "how b"}'),
        ("x.jsonl", '{"prompt": "how a"}\r{"prompt": "how b"}\r'),
        ("x.jsonl", '[\n {"prompt": "how a"},\n {"prompt": "how b"}\n]\n'),
        ("x.json", '{"version": 1, "rows": [{"prompt": "how a"}, {"prompt": "how b"}]}'),
        ("x.jsonl", '{"prompt": [{"role": "user", "content": "how a"}]}\n{"prompt": "how b"}\n'),
        (
            "x.jsonl",
            '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "how a"}]}]}\n{"prompt": "how b"}',
        ),
    ],
)
def test_json_as_it_is_written(tmp_path: Path, name: str, text: str) -> None:
    assert prompts(tmp_path, text, name) == ["how a", "how b"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('{"prompt": "how a"}\n', {}),
        ('\n{"prompt": "how a", "tags": ["x"], "more": {"k": 1}}', {}),
        ('{"prompt": [{"role": "user", "content": "how a"}]}', {}),
        ('{"id": 1, "messages": [{"role": "user", "content": "how a"}]}', {"prompt": "messages"}),
        ('{"messages": [{"role": "user", "content": "how a"}]}', {"prompt": "content"}),
        ('{"prompt": "what these are", "rows": [{"prompt": "how a"}]}', {}),  # the list is the table
    ],
)
def test_a_single_object(tmp_path: Path, text: str, columns: dict[str, str]) -> None:
    assert prompts(tmp_path, text, "x.json", columns=columns) == ["how a"]


TWICE = "stands twice in one object; only the last would be read"
SAID = '[{"role": "system", "content": "be kind"}, {"role": "user", "content": "how a"}]'
ONLY_USER = "row 1: role is 'system': content is a message of a conversation, which only its user asks"


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        (f'{{"messages": {SAID}}}', "content", ONLY_USER),
        (SAID, "content", ONLY_USER),
        (f'{{"messages": {SAID}}}', "prompt", "no column 'prompt' (prompt); there are: messages"),
        (
            f'{{"model": "m", "messages": {SAID}}}',
            "messages",
            "row 1: messages is a conversation (system, user) of which only a user message can be asked;"
            " give that alone",
        ),
        (
            '[{"from": "human", "value": "how a"}, {"from": "gpt", "value": "First"}]',
            "value",
            "row 2: from is 'gpt': value is a message of a conversation, which only its user asks",
        ),
        ('{"prompt": "of all", "rows": [{"ask": "how a"}]}', "prompt", "no column 'prompt' (prompt); there are: ask"),
        ('{"Prompt": "how a"}', "prompt", "no column 'prompt' (prompt); did you mean 'Prompt'?"),
        ('{"prompt": "how a", "prompt": "how b"}', "prompt", f"row 1: key 'prompt' {TWICE}"),
    ],
)
def test_a_single_object_that_is_no_request(tmp_path: Path, text: str, column: str, says: str) -> None:
    assert problem(tmp_path, text, "x.json", columns={"prompt": column}) == says


def test_the_users_messages_can_be_kept(tmp_path: Path) -> None:
    assert prompts(tmp_path, SAID, "x.json", columns={"prompt": "content"}, where={"role": "user"}) == ["how a"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}\n', f"row 2 (line 2): key 'prompt' {TWICE}"),
        ("x.jsonl", '{"prompt": "a", "more": {"k": 1, "k": 1}}\n', f"row 1 (line 1): key 'k' {TWICE}"),
        ("x.json", '[{"prompt": "a"}, {"t": [{"u": 1, "u": 2}], "prompt": "a"}]', f"row 2: key 'u' {TWICE}"),
        (
            "x.json",
            '{"rows": [], "rows": [{"prompt": "a"}]}',
            "key 'rows' stands twice in the outer object; only the last would be read",
        ),
        ("x.json", '[{"prompt": "a"},]', "malformed JSON on line 1, column 18: Expecting value"),
        (
            "x.json",
            '{"prompt": "a"}\n{"prompt": "b"',
            "row 2 (line 2): malformed JSON: Expecting ',' delimiter at column 15",
        ),
        (
            "x.json",
            '{"prompt": {"0": "a"}}',
            "must be a list of objects or an object with one list, found 0 lists in it",
        ),
        ("x.jsonl", '{"prompt": Infinity}', "row 1 (line 1): prompt is inf, not text"),
        ("x.jsonl", '{"prompt": NaN}', "row 1 (line 1): empty prompt (column 'prompt')"),
    ],
)
def test_json_that_cannot_be_read_names_the_cause(tmp_path: Path, name: str, text: str, says: str) -> None:
    assert problem(tmp_path, text, name) == says


def test_json_that_breaks_its_parser_is_one_line(tmp_path: Path) -> None:
    assert "malformed JSON" in problem(tmp_path, "[" * 100_000, "x.json")
    assert "malformed JSON: a number of thousands of digits" in problem(
        tmp_path, '{"prompt": ' + "1" * 5000 + "}", "x.jsonl"
    )


@pytest.mark.parametrize("depth", [99, 900, 5000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_json_that_nests_is_read_or_one_line(tmp_path: Path, depth: int, opening: str, closing: str) -> None:
    """A row of the table is one object, and lies in one list: ``depth`` is that of a cell."""
    row = '{"prompt": "how a", "m": ' + opening * depth + "1" + closing * depth + "}"
    for name, text, where in (("x.jsonl", row, "row 1 (line 1): malformed JSON: "), ("x.json", f"[{row}]", "")):
        if depth + text.startswith("[") < 100:
            assert prompts(tmp_path, text, name, where={"m": json.dumps(json.loads(row)["m"]).replace('"', "'")}) == [
                "how a"
            ]
            continue
        found = problem(tmp_path, text, name, where={"m": "x"})
        assert "\n" not in found
        assert found.startswith(where)
        assert "more than 100 lists and objects within one another" in found
    if depth > 99:
        (tmp_path / "t.json").write_text('{"a": ' + opening * depth + "1" + closing * depth + "}")
        with pytest.raises(DataError, match=r"t\.json: malformed JSON on line 1, column 1: more than 100 lists"):
            read(tmp_path, "behavior_id,prompt\na,p\n", targets="t.json")


@pytest.mark.parametrize(("name", "text"), [("x.jsonl", "{}"), ("x.json", "[{}, {}]")])
def test_objects_without_keys_lack_the_column(tmp_path: Path, name: str, text: str) -> None:
    assert problem(tmp_path, text, name) == "no column 'prompt' (prompt); there are: none"


def test_an_id_that_stands_twice_among_the_targets(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a": "Sure", "a": "No"}')
    with pytest.raises(DataError, match=r"t\.json: 'a' stands twice; only the last would be read"):
        read(tmp_path, "behavior_id,prompt\na,p\n", targets="t.json")


# --- conversations -----------------------------------------------------------------------------------------------


def turn(role: str, content: object = "text") -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([turn("user"), turn("assistant"), turn("user")], "is a conversation (user, assistant, user) of which only"),
        ([turn("system"), turn("user")], "is a conversation (system, user) of which only a user message can be asked"),
        ([turn("user"), turn("assistant")], "is a conversation (user, assistant) of which only"),
        ([turn("user"), turn("user")], "is a conversation (user, user) of which only"),
        ([turn("user"), "b"], "is a conversation (user, ?) of which only"),
        ([turn("user")] * 9, "is a conversation (user, user, user, user, user, user, ...) of which only"),
        ([turn("system")], "is a list without a user message"),
        ([{"from": "human", "value": "a"}], "is a list without a user message"),
        ([], "is a list without a user message"),
        (
            [turn("user", [{"type": "text", "text": "a"}, {"type": "image_url"}])],
            "is a message of 2 parts (text, image_url)",
        ),
        (
            [turn("user", [{"type": "text", "text": "a"}] * 2)],
            "is a message of 2 parts (text, text), and only one text",
        ),
        ([turn("user", [{"type": "image_url"}])], "is a message of 1 parts (image_url)"),
        ([turn("user", {"a": 1})], "is a dict, not text"),
    ],
)
def test_nothing_of_a_conversation_is_dropped(tmp_path: Path, value: object, says: str) -> None:
    line = json.dumps({"messages": value})
    found = problem(tmp_path, line, "x.jsonl", columns={"prompt": "messages"})
    assert found.startswith(f"row 1 (line 1): messages {says}")


@pytest.mark.parametrize("content", ["", "  ", None, [{"type": "text", "text": ""}]])
def test_an_empty_message_is_an_empty_prompt(tmp_path: Path, content: object) -> None:
    found = problem(tmp_path, json.dumps({"prompt": [turn("user", content)]}), "x.jsonl")
    assert found == "row 1 (line 1): empty prompt (column 'prompt')"


def test_a_set_of_first_turns_says_so(tmp_path: Path) -> None:
    """UltraChat is asked by its first user turn, by the name of its entry."""
    entry = ENTRIES["ultrachat"]
    assert "first user turns" in entry.source
    line = json.dumps({"messages": [turn("user", "first"), turn("assistant"), turn("user", "second")]})
    (tmp_path / "x.jsonl").write_text(line)
    spec = DatasetSpec(name="ultrachat", path="x.jsonl", columns={"prompt": "messages"})
    assert [b.prompt for b in load_behaviors(spec, base=tmp_path)] == ["first"]
