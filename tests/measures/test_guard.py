"""The utility guard: what a weight attack has left of a model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from doubles import FakeWeightAttack, ScriptedModel
from runs import answer, small_plan, small_suite

from rfbench.analysis.summary import summarize
from rfbench.attack import WeightAttack
from rfbench.attacks.weights.restore import restored
from rfbench.data.load import load_demonstrations
from rfbench.errors import BrokenLogits, DataError
from rfbench.measures import guard as module_under_test
from rfbench.measures.guard import Guard, guard_requests
from rfbench.models.base import Capability, ChatModel
from rfbench.models.load import load_model
from rfbench.records import Behavior, Record
from rfbench.run.evaluate import run_unit
from rfbench.run.overlap import refuse_overlap
from rfbench.run.plan import Unit, load_groups
from rfbench.run.store.parts import decode_part, encode_part


@pytest.fixture(scope="module")
def attacked(tiny_llama: Path) -> Iterator[Any]:
    with load_model(str(tiny_llama)) as model:
        yield model


@pytest.fixture(autouse=True)
def few_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module_under_test, "N_ANSWERS", 3)
    module_under_test._answers.cache_clear()
    yield
    module_under_test._answers.cache_clear()


def by_hand(model: Any) -> tuple[float, list[list[int]]]:
    """Mean nats per token of the answers, and the first choices, one conversation and one token at a time."""
    nats, choices = [], []
    for shot in [d for d in load_demonstrations() if not d.behavior.is_harmful][:3]:
        chat = model.encode([{"role": "user", "content": shot.behavior.request}], shot.response)
        with torch.inference_mode():
            logits = model.module(torch.tensor([chat.ids])).logits[0]
        logits = logits.double()
        logits[:, model.flag_id] = -math.inf
        start = chat.span("prefill").start
        nats += [-logits[i - 1].log_softmax(-1)[chat.ids[i]].item() for i in range(start, len(chat.ids))]
        choices.append(logits[start - 1 : -1].argmax(-1).tolist())
    return float(np.mean(nats)), choices


def test_the_figures_are_those_of_one_token_at_a_time(attacked: Any) -> None:
    guard = Guard.of(attacked)
    assert guard is not None
    before, chosen = by_hand(attacked)
    assert guard.nll == pytest.approx(before, rel=1e-5)
    untouched = guard.held_against(attacked)
    assert (untouched.perplexity_ratio, untouched.agreement) == (1.0, 1.0)
    with restored(attacked.module), torch.no_grad():
        attacked.module.model.norm.weight.mul_(0.5).add_(torch.linspace(0, 0.4, 32))
        left = guard.held_against(attacked)
        after, other = by_hand(attacked)
    assert left.perplexity == pytest.approx(math.exp(after), rel=1e-4)
    assert left.perplexity_ratio == pytest.approx(math.exp(after - before), rel=1e-4)
    agreement = np.mean([np.mean(np.equal(a, b)) for a, b in zip(chosen, other, strict=True)])
    assert left.agreement == pytest.approx(agreement)
    assert left.agreement < 1.0


def test_nothing_is_left_of_a_model_whose_logits_are_not_finite(attacked: Any) -> None:
    guard = Guard.of(attacked)
    assert guard is not None
    with restored(attacked.module), torch.no_grad():
        attacked.module.model.norm.weight.fill_(float("nan"))
        assert dataclasses.astuple(guard.held_against(attacked)) == (math.inf, math.inf, 0.0)
        with pytest.raises(BrokenLogits, match="the model's logits are not finite"):
            Guard.of(attacked)


def test_a_model_whose_weights_are_elsewhere_has_no_guard() -> None:
    assert Guard.of(ScriptedModel({})) is None


def test_the_answers_are_benign_and_fixed() -> None:
    assert [b.behavior_id for b in guard_requests()] == ["shot-b-001", "shot-b-002", "shot-b-003"]


class Shrink(WeightAttack):
    """Shrink the last norm, less and then more, https://example.org."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.FINETUNE})
    source: ClassVar[str] = "https://example.org"

    learned: tuple[str, ...] = ()

    def learns_from(self, *, offline: bool = False) -> tuple[Behavior, ...]:
        return tuple(Behavior(behavior_id=f"l{i}", prompt=prompt) for i, prompt in enumerate(self.learned))

    @contextlib.contextmanager
    def tamper(self, model: Any, rng: np.random.Generator) -> Iterator[Iterator[tuple[int, ChatModel]]]:
        def train() -> Iterator[tuple[int, ChatModel]]:
            for step in (1, 2):
                with torch.no_grad():
                    model.module.model.norm.weight.mul_(0.5)
                yield step, model

        with restored(model.module):
            yield train()


def units(tmp_path: Path, *attacks: Any) -> list[Unit]:
    suite = small_suite(tmp_path, attacks=list(attacks), generation={"max_new_tokens": 2})
    return [unit for unit in small_plan(suite) if unit.model.backend != "control"]


def test_every_row_of_a_checkpoint_says_what_is_left(tmp_path: Path, attacked: Any) -> None:
    [unit] = units(tmp_path, "test_guard:Shrink")
    guard = Guard.of(attacked)
    assert guard is not None
    records = run_unit(attacked, unit)
    found = {(r.step, r.perplexity, r.perplexity_ratio, r.agreement, r.then, r.then_params) for r in records}
    assert [fields[0] for fields in sorted(found)] == [1, 2]
    for step, perplexity, ratio, _, then, params in found:
        assert (then, params) == ("direct", "{}")
        assert perplexity == pytest.approx(ratio * math.exp(guard.nll), rel=1e-5), step
    assert guard.held_against(attacked).perplexity_ratio == 1.0  # and all is as it was


def test_the_run_before_the_attack_is_the_same_prompt_attack_of_the_suite(tmp_path: Path, attacked: Any) -> None:
    records = [
        r for unit in units(tmp_path, "direct", "prefill", "test_guard:Shrink") for r in run_unit(attacked, unit)
    ]
    table = decode_part("u", encode_part("u", as_table([dataclasses.replace(r, unit="u") for r in records])))
    summary = summarize(table.to_pandas())
    of_attack = summary[summary["attack"] == "test_guard:Shrink"].set_index(["dataset", "metric"])["value"]
    plain = summary[summary["attack"] == "direct"].set_index(["dataset", "metric"])["value"]
    assert of_attack["harmful", "dsr@before (direct)"] == plain["harmful", "dsr"]
    assert of_attack["benign", "fpr@before (direct)"] == plain["benign", "fpr"]
    assert of_attack["harmful", "tampered_perplexity_ratio"] == of_attack["harmful", "tampered_perplexity_ratio@step 2"]


def as_table(records: list[Record]) -> Any:
    import pyarrow as pa

    from rfbench.records import COLUMNS
    from rfbench.run.store.parts import arrow_schema

    return pa.table({name: [getattr(r, name) for r in records] for name in COLUMNS}, schema=arrow_schema())


def test_rows_without_weights_in_this_process_have_no_figures(tmp_path: Path) -> None:
    [unit] = units(tmp_path, "doubles:FakeWeightAttack")
    records = run_unit(ScriptedModel(answer, name="smollm2", capabilities=frozenset({Capability.FINETUNE})), unit)
    assert {(r.perplexity, r.perplexity_ratio, r.agreement) for r in records} == {(None, None, None)}
    assert {r.then for r in records} == {"direct"}
    assert isinstance(unit.entry.attack, FakeWeightAttack)


def test_the_keys_of_weight_attacks_hang_on_the_guard_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [unit.key for unit in units(tmp_path, "direct", "doubles:FakeWeightAttack")]
    monkeypatch.setattr("rfbench.run.plan.GUARD_VERSION", 2)
    after = [unit.key for unit in units(tmp_path, "direct", "doubles:FakeWeightAttack")]
    assert [a == b for a, b in zip(before, after, strict=True)][-1] is False
    assert before[:-1] == after[:-1]


@pytest.mark.parametrize(
    ("learned", "problem"),
    [
        ((), None),
        (("How is another thing done?",), None),
        (("how is harmful thing number 3 done",), r"1 request\(s\), first .* of harmful, which it is measured on"),
        (None, r"1 request\(s\), first 'shot-b-001', of the utility guard, which it is measured on"),
    ],
)
def test_an_attack_is_not_measured_on_what_it_learned(
    tmp_path: Path, learned: tuple[str, ...] | None, problem: str | None
) -> None:
    prompts = [guard_requests()[0].prompt.upper()] if learned is None else list(learned)
    attacks = ["direct", {"name": "test_guard:Shrink", "learned": prompts}]
    suite = small_suite(tmp_path, attacks=attacks)
    groups = load_groups(suite, limit=None, seed=0, offline=True)
    if problem is None:
        refuse_overlap(suite, groups)
    else:
        with pytest.raises(DataError, match=r"attacks\[1\]: test_guard:Shrink learns from " + problem):
            refuse_overlap(suite, groups)
        elsewhere = [{**attacks[1], "datasets": ["benign"]}] if learned else []  # type: ignore[dict-item]
        if elsewhere:
            refuse_overlap(small_suite(tmp_path, attacks=["direct", *elsewhere]), groups)
