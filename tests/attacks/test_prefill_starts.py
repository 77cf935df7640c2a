"""What ``prefill`` begins answers with besides the target, and where harm begins behind safe text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from doubles import ScriptedModel, Style, tiny_tokenizer
from pydantic import ValidationError
from runs import write_suite

from rfbench.attacks.prefill import BETWEEN, Prefill
from rfbench.cli import main
from rfbench.data.grid import core_grid, load_wordings, other_target, pair_key
from rfbench.data.load import load_builtin
from rfbench.errors import AttackError, ConfigError, SuiteError
from rfbench.models.encoding import ChatEncoder
from rfbench.records import Attempt, Behavior, digest
from rfbench.run.suite.load import load_suite

HARMFUL, TWIN = load_builtin("core/harmful")[0], load_builtin("core/twin")[0]
ALONE = Behavior(behavior_id="alpaca-1", prompt="Name a river.", is_harmful=False)
TARGETS = {behavior.target for behavior in load_builtin("core/harmful")}


def begin(behavior: Behavior, model: Any = None, **fields: Any) -> Attempt:
    (attempt,) = Prefill(**fields).craft(model or ScriptedModel({}), behavior, None)  # type: ignore[arg-type]
    return attempt


class Tokens(ScriptedModel):
    """Encodes as a template and a tokenizer do, so that several characters are a token."""

    def __init__(self, style: Style, **options: Any) -> None:
        super().__init__({}, **options)
        self.tokenizer = tiny_tokenizer(style)
        self.encode = ChatEncoder(self.tokenizer).encode  # type: ignore[method-assign]


def test_twins_get_the_very_same_words_as_in_the_grid_of_given_answers() -> None:
    given = {c.conversation_id: c.turns[-1].content for c in core_grid()}
    for start in ("refusal", "safe"):
        expected = given[f"{HARMFUL.behavior_id}/harmful/{start}"]
        assert [begin(b, start=start).prefill for b in (HARMFUL, TWIN)] == [expected, expected]
    assert begin(HARMFUL, start="other").prefill == begin(TWIN, start="other").prefill
    assert begin(HARMFUL, start="target").prefill == given[f"{HARMFUL.behavior_id}/harmful/harmful"]


@pytest.mark.parametrize("start", ["refusal", "safe", "other"])
def test_a_request_without_target_and_twin_takes_every_other_start(start: str) -> None:
    wordings = load_wordings()
    known = {"refusal": wordings.refusals, "safe": wordings.safe, "other": tuple(TARGETS)}
    attempt = begin(ALONE, start=start)
    assert attempt.prefill in known[start]
    assert (attempt.info, attempt.messages[0]["content"]) == ({}, "Name a river.")
    others = {begin(dataclasses.replace(ALONE, behavior_id=f"alpaca-{i}"), start=start).prefill for i in range(40)}
    assert len(others) > 8  # a hash chooses


def test_another_target_is_never_ones_own_nor_the_twins() -> None:
    for dataset in ("core/harmful", "core/twin"):
        for behavior in load_builtin(dataset):
            own = {b.target for b in load_builtin("core/harmful") if b.behavior_id == pair_key(behavior)}
            assert other_target(behavior) in TARGETS - own


def test_a_copy_of_a_request_under_another_id_is_not_begun_by_its_own_target() -> None:
    for behavior in load_builtin("core/harmful"):
        for copy in (
            dataclasses.replace(behavior, behavior_id="mine", twin_id="", target=""),
            dataclasses.replace(behavior, behavior_id="mine", twin_id="", prompt="Do it."),
        ):
            assert other_target(copy) != behavior.target
    # The rule is what decides: under some id the hash points at its own.
    copies = [dataclasses.replace(HARMFUL, behavior_id=f"mine-{i}", twin_id="", target="") for i in range(300)]
    unruled = [dataclasses.replace(copy, prompt="Do it.") for copy in copies]
    assert HARMFUL.target in map(other_target, unruled)
    assert HARMFUL.target not in map(other_target, copies)


def test_the_words_are_those_of_the_version() -> None:
    # They are in no key of a unit: whoever changes one raises the version, so that old results are not taken for new.
    wordings = load_wordings()
    words = [wordings.refusals, wordings.safe, [[b.behavior_id, b.target] for b in load_builtin("core/harmful")]]
    assert (Prefill.version, digest(words)[:16]) == (1, "edcda8e7098e81e4")


# --- harm behind safe text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [5, 25, 100, 300])
@pytest.mark.parametrize("style", ["chatml", "llama3"])
def test_the_onset_is_where_the_harmful_start_begins(style: Style, k: int) -> None:
    model = Tokens(style)
    attempt = begin(HARMFUL, model, safe_tokens=k)
    before, found, after = attempt.prefill.rpartition(BETWEEN)
    assert (found, after) == (BETWEEN, HARMFUL.target)
    safe = load_wordings().safe_text(HARMFUL.behavior_id, 12)
    assert before == model.tokenizer.decode(model.tokenizer.encode(safe, add_special_tokens=False)[:k])
    chat = model.encode(attempt.messages, attempt.prefill)
    forced = chat.ids[chat.span("prefill").start :]
    onset = attempt.info["onset"]
    assert onset >= k
    assert model.tokenizer.decode(forced[:onset]) == before + BETWEEN
    assert model.tokenizer.decode(forced[onset:]) == HARMFUL.target


def test_safe_text_goes_before_another_target_and_before_a_text() -> None:
    other = begin(ALONE, start="other", safe_tokens=10)
    assert other.prefill.endswith(BETWEEN + begin(ALONE, start="other").prefill)
    assert other.info == {"onset": 10 + len(BETWEEN)}  # a byte a token
    assert begin(ALONE, text="Sure", safe_tokens=10).prefill.endswith(f"{BETWEEN}Sure")
    assert begin(HARMFUL, words=2, safe_tokens=3).prefill.count("Here is") == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"start": "sfe"}, "Input should be 'target', 'refusal', 'safe' or 'other'"),
        ({"start": "safe", "text": "Sure"}, "text is about the target, and start is safe; keep one"),
        ({"start": "other", "words": 3}, "words is about the target, and start is other; keep one"),
        ({"start": "refusal", "safe_tokens": 5}, "safe_tokens come before a harmful start, and start is refusal"),
        ({"safe_tokens": -1}, "greater than or equal to 0"),
        ({"safe_tokens": 99_999}, r"safe_tokens is 99999, beyond the safe texts of \d{4} characters; lower it"),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Prefill(**fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"start": "sfe"}, "attacks[0].start: must be 'target', 'refusal', 'safe' or 'other' (got \"sfe\")"),
        ({"safe_tokens": 99_999}, "attacks[0]: safe_tokens is 99999, beyond the safe texts of "),
    ],
)
def test_a_suite_says_so_in_one_line(tmp_path: Any, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(str(write_suite(tmp_path, attacks=[{"name": "prefill", **fields}])))
    (problem,) = caught.value.problems
    assert line in problem


def test_more_safe_tokens_than_a_model_has_are_refused_before_anything_runs() -> None:
    model = Tokens("chatml")
    text = load_wordings().safe_text("", 12)
    n_tokens = len(model.tokenizer.encode(text, add_special_tokens=False))
    Prefill(safe_tokens=n_tokens).check_model(model)
    with pytest.raises(ConfigError, match=f"safe_tokens is {n_tokens + 1}, but the safe texts hold {n_tokens} tokens"):
        Prefill(safe_tokens=n_tokens + 1).check_model(model)
    # The request and its marks are bytes, too: 20 of them.
    with pytest.raises(ConfigError, match="safe_tokens is 300, but a context of 256 leaves room for 236 tokens"):
        Prefill(safe_tokens=300).check_model(ScriptedModel({}, max_context=256))
    with pytest.raises(AttackError, match="'core-h-001': its safe texts are shorter than"):
        begin(HARMFUL, model, safe_tokens=n_tokens + 50)


def test_the_command_ends_with_2_and_one_line(
    tmp_path: Any, tiny_llama: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = ["direct", {"name": "prefill", "safe_tokens": 5_000}]
    path = write_suite(tmp_path, models=[str(tiny_llama)], attacks=attacks)
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "safe_tokens" in line]
    assert "attack prefill: safe_tokens is 5000, but " in line
    assert line.endswith("tokens of this model; lower it")
