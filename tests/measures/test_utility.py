"""Utility against naive code: one sequence at a time, the whole softmax, no cache, in double precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import tiny_tokenizer

import rfbench.models.hf.likelihood as forced
from rfbench.analysis.intervals import exact_rate
from rfbench.analysis.stats import bootstrap_mean, bootstrap_mean_difference, wilson
from rfbench.data.catalog import DatasetSpec
from rfbench.errors import ModelError
from rfbench.measures.utility import Utility, _Figures
from rfbench.models.hf.likelihood import Span, compare, text_nll
from rfbench.models.hf.model import HFModel
from rfbench.models.load import load_model
from rfbench.models.spec import ModelSpec
from rfbench.records import Attempt, Behavior
from rfbench.run.store.parts import encode_measure

BEHAVIORS = [
    Behavior(behavior_id=f"b{i}", prompt=prompt, is_harmful=False)
    for i, prompt in enumerate(
        ("How is bread baked?", "Why?", "Please tell me about the old lighthouse and the storm.")
    )
]
N_NEW = 5
MEASURE = Utility(dataset=DatasetSpec(name="core/twin"), max_new_tokens=N_NEW)


def load(folder: Path, **settings: Any) -> HFModel:
    model = load_model(ModelSpec(spec=str(folder), device="cpu", **settings))
    assert isinstance(model, HFModel)
    return model


@pytest.fixture(scope="module")
def pair(tiny_model: Callable[..., Path]) -> Iterator[tuple[HFModel, HFModel]]:
    """Two models that have nothing in common but the tokenizer."""
    with load(tiny_model(), flag_bias=1.0) as model, load(tiny_model(seed=1)) as reference:
        yield model, reference


def figures(model: HFModel, reference: HFModel | None = None, measure: Utility = MEASURE) -> dict[str, Any]:
    rows = measure.rows(model, reference, BEHAVIORS, seed=0)
    assert {row["dataset"] for row in rows} == {"core/twin"}
    assert len({row["measure"] for row in rows}) == len(rows)
    return {row["measure"]: row for row in rows}


def log_p(model: HFModel, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of the next id given no flag."""
    with torch.no_grad():
        logits = model.module(torch.tensor([list(ids)])).logits[0, -1].double()
    logits[model.flag_id] = -math.inf
    return torch.log_softmax(logits, dim=-1)


def greedy(model: HFModel, prompt: Sequence[int]) -> list[int]:
    answer: list[int] = []
    while len(answer) < N_NEW and not (answer and answer[-1] in model.eos_ids):
        answer.append(int(log_p(model, [*prompt, *answer]).argmax()))
    return answer


def nll(model: HFModel, ids: Sequence[int], start: int, stop: int) -> list[float]:
    return [-float(log_p(model, ids[:i])[ids[i]]) for i in range(start, stop)]


def mean(parts: Sequence[Sequence[float]]) -> float:
    flat = [value for part in parts for value in part]
    return sum(flat) / len(flat)


def prompts_of(model: HFModel) -> list[tuple[int, ...]]:
    return [model.encode([{"role": "user", "content": b.request}]).ids for b in BEHAVIORS]


def test_divergence_and_agreement_by_hand(pair: tuple[HFModel, HFModel]) -> None:
    model, reference = pair
    kls, agrees = [], []
    for prompt in prompts_of(model):
        answer = greedy(reference, prompt)
        ids = [*prompt, *answer]
        pairs = [(log_p(reference, ids[:i]), log_p(model, ids[:i])) for i in range(len(prompt), len(ids))]
        kept = [i for i in range(len(pairs[0][0])) if i != model.flag_id]
        kls.append([float((r[kept].exp() * (r[kept] - m[kept])).sum()) for r, m in pairs])
        agrees.append([bool(r.argmax() == m.argmax()) for r, m in pairs])
        # Its greedy text is the answer if and only if it agrees throughout: what makes greedy_equal exact.
        assert (greedy(model, prompt) == answer) == all(agrees[-1])
    got = figures(model, reference)
    per_conversation = [sum(kl) / len(kl) for kl in kls]
    assert got["kl_to_base"]["value"] == pytest.approx(np.mean(per_conversation), rel=1e-5)
    ends = bootstrap_mean(per_conversation, range(3), np.random.default_rng(0))[1:]
    assert [got["kl_to_base"][end] for end in ("lo", "hi")] == pytest.approx((max(ends[0], 0.0), ends[1]), rel=1e-5)
    assert got["greedy_agreement"]["value"] == pytest.approx(np.mean([np.mean(a) for a in agrees]))
    equal = sum(map(all, agrees))
    assert (got["greedy_equal"]["lo"], got["greedy_equal"]["hi"]) == wilson(equal, 3)
    assert got["kl_to_base"]["n"] == got["greedy_equal"]["n"] == 3


def test_perplexity_by_hand(pair: tuple[HFModel, HFModel]) -> None:
    model, reference = pair
    own, theirs = [], []
    for behavior in BEHAVIORS:
        chat = model.encode([{"role": "user", "content": behavior.request}])
        user = chat.span("user")
        own.append(nll(model, chat.ids, user.start, user.stop))
        theirs.append(nll(reference, chat.ids, user.start, user.stop))
    got = figures(model, reference)
    assert got["perplexity"]["value"] == pytest.approx(math.exp(mean(own)), rel=1e-5)
    assert got["perplexity_ratio"]["value"] == pytest.approx(math.exp(mean(own) - mean(theirs)), rel=1e-5)
    for name in ("perplexity", "perplexity_ratio"):
        assert got[name]["lo"] <= got[name]["value"] <= got[name]["hi"]


@pytest.mark.parametrize("bias", [-30.0, 1.0, 30.0])
def test_what_follows_a_forced_flag_by_hand(pair: tuple[HFModel, HFModel], bias: float) -> None:
    model, reference = copy.copy(pair[0]), pair[1]
    model.flag_bias = bias
    assert model.flag_id is not None
    after, free, again = [], [], 0
    for prompt in prompts_of(model):
        forced_answer, own_answer = greedy(model, [*prompt, model.flag_id]), greedy(model, prompt)
        for answers, answer in ((after, forced_answer), (free, own_answer)):
            ids = [*prompt, *answer]
            answers.append(nll(reference, ids, len(prompt), len(ids)))
        # Generated with the flag allowed, as the model would at this operating point.
        (text,) = model.continue_ids([[*prompt, model.flag_id]], max_new_tokens=N_NEW)
        again += model.flag_id in text
    got = figures(model, reference)
    assert got["after_flag_perplexity_ratio"]["value"] == pytest.approx(math.exp(mean(after) - mean(free)), rel=1e-4)
    assert got["after_flag_reflag"]["value"] == again / 3
    if abs(bias) == 30.0:
        assert again == (3 if bias > 0 else 0)


def test_a_single_conversation_has_figures_and_no_interval(pair: tuple[HFModel, HFModel]) -> None:
    """As under ``--limit 1``; what is not known is not written as a number."""
    model, reference = pair
    rows = MEASURE.rows(model, reference, BEHAVIORS[:1], seed=0)
    assert encode_measure("utility", [{**row, "model": "m"} for row in rows])
    got = {row["measure"]: (row["lo"], row["hi"]) for row in rows}
    for name in ("kl_to_base", "perplexity", "perplexity_ratio", "after_flag_perplexity_ratio"):
        assert got[name] == (None, None)


def test_a_mean_keeps_to_its_range_and_equal_conversations_are_no_certainty() -> None:
    """All of n equal: as a rate of n in n, whose exact lower end is .025 ** (1 / n)."""
    row = _Figures(0).mean("greedy_agreement", [1.0] * 32)
    assert (row["value"], row["lo"], row["hi"]) == (1.0, pytest.approx(0.025 ** (1 / 32)), 1.0)
    row = _Figures(0).mean("greedy_agreement", [1.0] * 31 + [0.5])
    assert row["lo"] <= exact_rate(31.5, 32)[0] < row["value"] < row["hi"] <= 1.0
    row = _Figures(0).mean("kl_to_base", [0.001] * 3 + [2.0])
    assert row["lo"] == 0.0 < row["value"] < row["hi"]
    row = _Figures(0).mean("kl_to_base", [0.25] * 32)
    assert (row["value"], row["lo"], row["hi"]) == (0.25, None, None)
    row = _Figures(0).exp_mean("perplexity_ratio", [np.array([0.0]), np.array([-3.0]), np.array([3.0])])
    assert 0 < row["lo"] < row["value"] < row["hi"]


def test_an_end_beyond_any_number_is_not_known() -> None:
    """Student's t of two conversations with one degree of freedom: 350 +- 12.7 * 100 nats."""
    row = _Figures(0).exp_mean("perplexity", [np.array([250.0]), np.array([450.0])])
    assert (row["value"], row["lo"], row["hi"]) == (pytest.approx(math.exp(350)), None, None)
    with pytest.raises(ModelError, match="too large"):
        _Figures(0).exp_mean("perplexity", [np.array([800.0]), np.array([900.0])])


def test_a_model_equal_to_its_reference(pair: tuple[HFModel, HFModel]) -> None:
    model, _ = pair
    got = figures(model, model)
    assert got["kl_to_base"] == {**got["kl_to_base"], "value": 0.0, "lo": None, "hi": None}
    assert (got["greedy_agreement"]["lo"], got["greedy_agreement"]["hi"]) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert got["greedy_agreement"]["value"] == got["greedy_equal"]["value"] == got["perplexity_ratio"]["value"] == 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_another_flag_row_is_no_difference_given_no_flag(
    tiny_model: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    """Neither its values, nor that the base has no such row at all."""
    with load(tiny_model(tied=tied)) as base:
        flag = base.flag_id
        assert flag == len(base.tokenizer) - 1
        base.module.resize_token_embeddings(flag)
        base.module.save_pretrained(tmp_path)
        tiny_tokenizer(flag=False).save_pretrained(tmp_path)
    with load(tiny_model(tied=tied)) as model, load(tmp_path) as reference:
        with torch.no_grad():
            model.module.get_output_embeddings().weight[flag] *= -3.0
        assert (model.flag_id, reference.flag_id) == (flag, None)
        got = figures(model, reference)
    assert got["kl_to_base"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert got["greedy_agreement"]["value"] == got["greedy_equal"]["value"] == 1.0
    assert got["perplexity_ratio"]["value"] == pytest.approx(1.0, abs=1e-6)


def test_alone_a_model_has_only_the_figures_that_need_no_reference(
    pair: tuple[HFModel, HFModel], tiny_model: Callable[..., Path]
) -> None:
    assert set(figures(pair[0])) == {"perplexity", "after_flag_reflag"}
    with load(tiny_model(flag=False)) as plain:
        assert set(figures(plain)) == {"perplexity"}


def test_the_operating_point_matters_only_to_reflag(pair: tuple[HFModel, HFModel]) -> None:
    one, other = copy.copy(pair[0]), copy.copy(pair[0])
    one.flag_bias, other.flag_bias = -30.0, 30.0
    left, right = figures(one, pair[1]), figures(other, pair[1])
    assert {name for name in left if left[name] != right[name]} == {"after_flag_reflag"}


def test_batches_change_nothing(pair: tuple[HFModel, HFModel], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures(*pair)
    monkeypatch.setattr(forced, "LOGITS_BUDGET", 1)
    single = figures(*pair)
    for name, row in whole.items():
        assert single[name]["value"] == pytest.approx(row["value"], rel=1e-5)


# --- what may strike --------------------------------------------------------------------------------------------


def spans_of(model: HFModel) -> list[Span]:
    return [Span(ids, 2, len(ids)) for ids in prompts_of(model)]


def test_out_of_memory_halves_the_batch(pair: tuple[HFModel, HFModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = pair
    whole, seen, original = text_nll(model, spans_of(model)), [], forced._logits

    def scarce(model: HFModel, batch: Sequence[Span]) -> list[torch.Tensor]:
        seen.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batch)

    monkeypatch.setattr(forced, "_logits", scarce)
    for a, b in zip(text_nll(model, spans_of(model)), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert seen[0] == 3
    assert len(compare(model, reference, spans_of(model))) == 3
    monkeypatch.setattr(forced, "_logits", lambda model, batch: scarce(model, [*batch, *batch]))
    with pytest.raises(ModelError, match="out of memory with a single text of"):
        text_nll(model, spans_of(model))


def test_logits_that_are_not_finite(tiny_model: Callable[..., Path]) -> None:
    with load(tiny_model()) as model:
        with torch.no_grad():
            model.module.model.norm.weight.fill_(math.inf)
        with pytest.raises(ModelError, match="logits are not finite"):
            figures(model)
        with pytest.raises(ModelError, match="logits are not finite"):
            model.continue_ids([[1, 2]], max_new_tokens=2)


def test_a_reference_that_reads_requests_otherwise(
    pair: tuple[HFModel, HFModel], tiny_model: Callable[..., Path]
) -> None:
    with (
        load(tiny_model(style="llama3")) as other,
        pytest.raises(
            ModelError, match=r"cannot be held against .*: they encode b0 differently .*another `reference:`"
        ),
    ):
        figures(pair[0], other)


def test_perplexities_beyond_numbers(pair: tuple[HFModel, HFModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forced, "text_nll", lambda model, spans: [np.full(3, 800.0) for _ in spans])
    with pytest.raises(ModelError, match="perplexity is too large for a number: 800 nats per token"):
        figures(pair[0])


def test_nothing_stands_before_the_first_id() -> None:
    for start, stop in ((0, 2), (2, 2), (1, 4)):
        with pytest.raises(ValueError, match="no token precedes them"):
            Span((1, 2, 3), start, stop)


# --- ids in, ids out ----------------------------------------------------------------------------------------------


def test_continuations_are_what_generate_gives(pair: tuple[HFModel, HFModel]) -> None:
    model, reference = pair
    attempts = [Attempt(b.behavior_id, messages=[{"role": "user", "content": b.request}]) for b in BEHAVIORS]
    for each in (model, reference):
        wanted = [c.completion_ids.tolist() for c in each.generate(attempts, max_new_tokens=N_NEW)]
        assert each.continue_ids(prompts_of(each), max_new_tokens=N_NEW) == wanted
        suppressed = each.continue_ids(prompts_of(each), max_new_tokens=N_NEW, suppress_flag=True)
        assert suppressed == [greedy(each, prompt) for prompt in prompts_of(each)]
    assert model.continue_ids([], max_new_tokens=N_NEW) == []


def test_a_prompt_longer_than_the_context(pair: tuple[HFModel, HFModel]) -> None:
    with pytest.raises(ModelError, match="prompt of 2047 tokens and 2 new ones exceed the context of 2048"):
        pair[0].continue_ids([[1] * 2047], max_new_tokens=2)


# --- the difference of two means ----------------------------------------------------------------------------------


def test_a_difference_of_means_weighs_tokens_and_draws_groups_with_both() -> None:
    one, other = [[1.0, 2.0, 3.0], [10.0]], [[0.0], [4.0, 4.0]]
    value, lo, hi = bootstrap_mean_difference(one, other, np.random.default_rng(0))
    assert value == pytest.approx(16 / 4 - 8 / 3)
    # Two groups are too few to draw from: Student's t with one degree of freedom. What a group adds to the difference
    # is (6 - 4 * 3) / 4 - (0 - 8/3) / 3 = -11/18, and the opposite for the other one.
    error = math.sqrt(2 * (11 / 18) ** 2 * 2 / (2 - 1))
    assert (lo, hi) == pytest.approx((value - 12.7062 * error, value + 12.7062 * error), rel=1e-5)
    same = bootstrap_mean_difference(one, one, np.random.default_rng(0))
    assert same[0] == 0.0
    assert all(map(math.isnan, same[1:]))  # equal groups do not say how far others would lie
    assert all(map(math.isnan, bootstrap_mean_difference([], [], np.random.default_rng(0))))
