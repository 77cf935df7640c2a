"""The fields of the ``gcg`` attacks: written flat or in groups they are the configuration of older versions."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from rfbench.attack import Attack, find_attack
from rfbench.attacks.suffix.fields import GROUPS
from rfbench.files.problems import Problems
from rfbench.run.suite.load import load_suite

SHIPPED = {
    "adaptive/adaptive-0": ("0b29f3a05b0a22f5", "3fcdf90fadb32642"),
    "adaptive/adaptive-0.1": ("93a80125b46039c4", "3fcdf90fadb32642"),
    "adaptive/adaptive-1": ("1737ffb59041fec2", "3fcdf90fadb32642"),
    "adaptive/adaptive-10": ("a02e14835a637eca", "3fcdf90fadb32642"),
    "adaptive/false_flag": ("491981f68f0bcc47", "e41072a3ac9b5ca1"),
    "adaptive/false-flag-transfer": ("7aaa0ef3499ba0b2", "4805dfed90e9920e"),
    "quick/gcg": ("0850dac59b07ed42", "dd274ea16fe1e20f"),
    "whitebox/gcg": ("be9410014f828f06", "3fcdf90fadb32642"),
}
"""Hashes of ``params`` and of ``stream``, computed before there were groups: saved runs hang on the first, suffixes on
the second. A new entry of a suite is added here; an entry whose hash changes cannot go on with the runs that it has."""

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "{optim_str} {request}"}]
EVERYWHERE: dict[str, Any] = {"n_steps": 3, "width": 9, "topk": 7, "n_replace": 2, "messages": MESSAGES}
EVERYWHERE |= {"initial": [" a b", " c d"], "buffer_size": 3, "mellowmax_alpha": 2.5, "momentum": 0.5}
EVERYWHERE |= {
    "early_stop": True,
    "space_before_target": True,
    "surrogates": ["smollm2"],
    "ranking": "draft",
    "every": 5,
}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[str, str]]] = {
    "defaults": ("gcg", {}, {"draft": {}, "vocabulary": {}}, ("ea8d5b4e32129abb", "c628f417955ea597")),
    "every field": (
        "gcg",
        {
            **EVERYWHERE,
            **{"filter_ids": False, "non_ascii": True, "admit": ["<rf>"], "universal": True, "progressive": True},
            **{"side_by_side": 4, "batch": 2, "pack": False, "draft": "int8", "draft_target": None},
            **{"draft_dtype": "bfloat16", "share": 0.5, "at_least": 3, "probe_divisor": 4, "reduction": 2},
        },
        {
            **EVERYWHERE,
            "vocabulary": {"filter_ids": False, "non_ascii": True, "admit": ["<rf>"]},
            "universal": {"progressive": True},
            "compute": {"side_by_side": 4, "batch": 2, "pack": False},
            "draft": {"model": "int8", "target_tokens": None, "dtype": "bfloat16", "share": 0.5, "at_least": 3},
            "probe": {"divisor": 4, "reduction": 2},
        },
        ("61eee477ab650ab0", "f6db13dc716a314c"),
    ),
    "probe": (
        "gcg",
        {"ranking": "probe", "probe_divisor": 8, "reduction": 4, "draft": "smollm2"},
        {"ranking": "probe", "probe": {"divisor": 8, "reduction": 4}, "draft": {"model": "smollm2"}},
        ("108455455c33d308", "77880824d29a8147"),
    ),
    "adaptive": (
        "gcg_adaptive",
        {"flag_weight": 0.5, "pressure": "first", "first": 3, "universal": True, "side_by_side": 2, "pack": False},
        {
            "flag_weight": 0.5,
            "pressure": "first",
            "first": 3,
            "universal": {},
            "compute": {"side_by_side": 2, "pack": False},
        },
        ("7a5deb1e3b74bbc4", "086263a6307d07dd"),
    ),
    "transfer": (
        "false_flag",
        {"learn_from": 4, "first": 2, "non_ascii": True, "draft_target": 2, "every": 3},
        {"learn_from": 4, "first": 2, "vocabulary": {"non_ascii": True}, "draft": {"target_tokens": 2}, "every": 3},
        ("b77f603db4b376f3", "67fd55172817d171"),
    ),
}


def hashes(attack: Attack) -> tuple[str, str]:
    texts = (attack.params, "\n".join(attack.stream))
    params, stream = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)
    return params, stream


def test_shipped_entries_are_the_configurations_that_they_were() -> None:
    found = {
        f"{name}/{entry.label}": hashes(entry.attack)
        for name in ("quick", "whitebox", "adaptive", "ci", "finetuning")  # what reference holds, it needs data for
        for entry in load_suite(name).attacks
        if entry.attack.name in ("gcg", "gcg_adaptive", "false_flag")
    }
    assert found == SHIPPED


@pytest.mark.parametrize("case", CASES)
def test_flat_and_grouped_keys_give_the_configuration_of_older_versions(case: str) -> None:
    name, flat, grouped, expected = CASES[case]
    problems = Problems("x.yaml")
    attacks = [problems.build("", find_attack(name), fields) for fields in (flat, grouped)]
    assert problems == []
    assert [hashes(attack) for attack in attacks if attack is not None] == [expected, expected]
    assert attacks[0] == attacks[1] == find_attack(name)(**flat) == find_attack(name)(**grouped)


@pytest.mark.parametrize("case", CASES)
def test_saved_params_are_read_back(case: str) -> None:
    name, flat, _, _ = CASES[case]
    attack = find_attack(name)(**flat)
    assert find_attack(name)(**json.loads(attack.params)) == attack


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"draft": {"target_token": 3}}, "draft.target_token: unknown; did you mean target_tokens?"),
        ({"draft": {"target_tokens": 0}}, "draft.target_tokens: must be greater than or equal to 1 (got 0)"),
        ({"draft_target": 0}, "draft_target: must be greater than or equal to 1 (got 0)"),
        ({"initial": " x"}, 'initial: must be a list (got " x")'),
        ({"universal": False, "progressive": True}, "progressive adds behaviors to a universal search; set universal"),
    ],
)
def test_a_problem_of_gcg_names_the_key_that_was_written(fields: dict[str, Any], line: str) -> None:
    problems = Problems("x.yaml")
    assert problems.build("", find_attack("gcg"), fields) is None
    (found,) = problems
    assert found.startswith(f"x.yaml: {line}")


@pytest.mark.parametrize("name", ["gcg", "gcg_adaptive", "false_flag"])
def test_groups_name_fields_that_are_there(name: str) -> None:
    cls = find_attack(name)
    for group in GROUPS.values():
        assert cls.model_fields.keys() >= {*group.keys.values()}
    properties = cls.model_json_schema()["properties"]
    shown = [key for key, schema in properties.items() if not schema.get("deprecated")]
    assert properties.keys() >= cls.model_fields.keys() | GROUPS.keys()
    assert len([key for key in shown if key in find_attack("gcg").model_fields or key in GROUPS]) <= 20
