"""Fields that may be written in groups: both spellings give one model, and problems name the keys that were written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rfbench.files.groups import Group, GroupedFields
from rfbench.files.problems import Problems


class Turn(BaseModel):
    role: str


class Settings(GroupedFields):
    model_config = ConfigDict(frozen=True, extra="forbid")
    groups: ClassVar[Mapping[str, Group]] = {
        "draft": Group("the draft", {"model": "draft", "share": "draft_share"}),
        "shared": Group("one for all", {"slowly": "slowly"}, turns_on="shared"),
        "vocabulary": Group("ids", {"admit": "admit"}),
    }

    n: int = 1
    turns: tuple[Turn, ...] = ()
    draft: str = "own"
    draft_share: float = Field(default=0.5, gt=0)
    shared: bool = False
    slowly: bool = False
    admit: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("grouped", "flat"),
    [
        ({"draft": {"model": "int8", "share": 1}}, {"draft": "int8", "draft_share": 1}),
        ({"draft": {}}, {}),
        ({"draft": "int8"}, {"draft": "int8"}),
        ({"shared": {"slowly": True}}, {"shared": True, "slowly": True}),
        ({"shared": {}}, {"shared": True}),
        ({"shared": False}, {}),
        ({"vocabulary": {"admit": ["a", "b"]}, "n": 3}, {"admit": ["a", "b"], "n": 3}),
        ({"turns": [{"role": "user"}], "vocabulary": {}}, {"turns": [{"role": "user"}]}),
    ],
)
def test_a_group_is_the_fields_that_it_stands_for(grouped: dict[str, Any], flat: dict[str, Any]) -> None:
    problems = Problems("x.yaml")
    built = [problems.build("", Settings, fields) for fields in (grouped, flat)]
    assert problems == []
    assert built[0] == built[1] == Settings(**grouped) == Settings(**flat)
    assert Settings(**grouped).model_dump_json() == Settings(**flat).model_dump_json()


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"draft": {"share": 0}}, "x.yaml: at.draft.share: must be greater than 0 (got 0)"),
    ({"draft_share": 0}, "x.yaml: at.draft_share: must be greater than 0 (got 0)"),
    ({"draft": {"model": 3}}, "x.yaml: at.draft.model: must be a string (got 3)"),
    ({"draft": {"shar": 1}}, "x.yaml: at.draft.shar: unknown; did you mean share?"),
    ({"draft_shar": 1}, "x.yaml: at.draft_shar: unknown; did you mean draft_share?"),
    ({"vocabulry": {}}, "x.yaml: at.vocabulry: unknown; did you mean vocabulary?"),
    ({"vocabulary": {"admit": "a"}}, 'x.yaml: at.vocabulary.admit: must be a list (got "a")'),
    ({"vocabulary": {"admit": [3]}}, "x.yaml: at.vocabulary.admit[0]: must be a string (got 3)"),
    ({"vocabulary": 3}, "x.yaml: at: vocabulary must be a mapping with some of admit"),
    ({"shared": {"slowly": 1}}, "x.yaml: at.shared.slowly: must be a boolean (got 1)"),
    (
        {"draft": {"share": 1}, "draft_share": 1},
        "x.yaml: at: draft_share is given twice, in the group draft and outside of it; keep one",
    ),
    ({"n": True}, "x.yaml: at.n: must be an integer (got true)"),
    ({"turns": [{}]}, "x.yaml: at.turns[0].role: missing"),
]


@pytest.mark.parametrize(("value", "line"), PROBLEMS, ids=[line for _, line in PROBLEMS])
def test_a_problem_names_the_key_that_was_written(value: dict[str, Any], line: str) -> None:
    problems = Problems("x.yaml")
    assert problems.build("at", Settings, value) is None
    assert problems == [line]


def test_what_is_wrong_is_wrong_in_python_too() -> None:
    with pytest.raises(ValidationError, match="given twice"):
        Settings(draft={"share": 1}, draft_share=1)  # type: ignore[arg-type]


def test_the_schema_shows_groups_and_deprecates_their_fields_outside() -> None:
    properties = Settings.model_json_schema()["properties"]
    mapping, text = properties["draft"]["anyOf"]
    assert mapping["properties"].keys() == {"model", "share"}
    assert mapping["additionalProperties"] is False
    assert "deprecated" not in mapping["properties"]["share"]
    assert text["type"] == "string"
    assert properties["draft_share"]["deprecated"] is True
    assert properties["vocabulary"]["description"] == "ids"
    assert "deprecated" not in properties["n"]
