from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rfbench.errors import ConfigError, StorageError
from rfbench.train import loop, objectives
from rfbench.train.conversations import Conversation
from rfbench.train.loop import CHECKPOINT, LOG, draw_curve, fit, make_optimiser, rate, train_step
from rfbench.train.network import Network
from rfbench.train.recipe import OptimiserSettings, Recipe

MakeNetwork = Callable[..., tuple[Network, Any]]
MakeRecipe = Callable[..., Recipe]


class Killed(BaseException):
    pass


def split(conversations: list[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    return conversations[:4] + conversations[6:12], conversations[4:6] + conversations[12:]


def run(net: Network, conversations: list[Conversation], recipe: Recipe, folder: Path, **more: Any) -> loop.FitResult:
    train, held_out = split(conversations)
    return fit(net, train, held_out, recipe, folder, **{"fingerprint": "f", **more})


def test_rate_by_hand() -> None:
    settings = OptimiserSettings(steps=12, warmup=2, final_lr=0.2)
    assert [rate(step, settings) for step in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2])
    assert rate(0, OptimiserSettings(warmup=0)) == 1.0


@pytest.mark.parametrize("kind", ["redflag", "refusal"])
def test_training_lowers_the_loss_and_touches_nothing_else(
    kind: str, make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    net, _ = make_network(flag=kind == "redflag", first_layer=1)
    frozen = {n: p.detach().clone() for n, p in net.peft.named_parameters() if n not in net.parameters}
    recipe = make_recipe(kind, optimiser={"steps": 20, "lora_lr": 0.02, "row_lr": 0.02})
    result = run(net, conversations, recipe, tmp_path)
    losses = [row["val_loss"] for row in result.history if row["event"] == "validation"]
    assert min(losses[1:]) < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in net.peft.named_parameters() if n in frozen)
    best = min((row for row in result.history if row["event"] == "validation"), key=lambda row: row["val_loss"])
    assert result.best_step == best["step"]
    _, held_out = split(conversations)
    assert objectives.validate(net, held_out, recipe, 8).loss == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.parametrize("form", ["both", "insertion"])
def test_a_killed_training_ends_like_an_unbroken_one(
    form: str,
    make_network: MakeNetwork,
    make_recipe: MakeRecipe,
    conversations: list[Conversation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_recipe(objective={"form": form})
    whole, _ = make_network(first_layer=1)
    unbroken = run(whole, conversations, recipe, tmp_path / "whole")

    def kill_at_5(*args: Any) -> dict[str, float]:
        if args[-1] == 5:
            raise Killed
        return train_step(*args)

    broken, _ = make_network(first_layer=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", kill_at_5)
        with pytest.raises(Killed):
            run(broken, conversations, recipe, tmp_path / "broken")
    resumed, _ = make_network(first_layer=1)
    result = run(resumed, conversations, recipe, tmp_path / "broken")
    assert (unbroken.resumed_at, result.resumed_at) == (0, 4)
    assert result.history == unbroken.history
    assert all(torch.equal(a, b) for a, b in zip(resumed.snapshot().values(), whole.snapshot().values(), strict=True))


def test_micro_batches_change_nothing(
    make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    ends = []
    for rows in (1, 8):
        net, _ = make_network()
        run(net, conversations, make_recipe(optimiser={"steps": 1, "micro_rows": rows}), tmp_path / str(rows))
        ends.append({name: p.grad for name, p in net.parameters.items()})
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("redflag", {"form": "insertion", "kl_weight": 0, "after_flag_weight": 0}),
        ("redflag", {"form": "dense", "kl_weight": 0, "false_alarm_weight": 0, "peak_weight": 0}),
        ("refusal", {"kl_weight": 0, "kl_peak_weight": 0}),
    ],
)
def test_what_only_holds_the_rest_in_place_may_be_left_out(
    kind: str,
    objective: dict[str, Any],
    make_network: MakeNetwork,
    make_recipe: MakeRecipe,
    conversations: list[Conversation],
    tmp_path: Path,
) -> None:
    net, _ = make_network(flag=kind == "redflag", first_layer=1)
    before = net.snapshot()
    result = run(net, conversations, make_recipe(kind, objective=objective), tmp_path)
    taught = {"flag", "hazard"} if kind == "redflag" else {"refusal"}
    found = {name for row in result.history if row["event"] == "train" for name in row}
    assert found - {"event", "step", "loss", "grad_norm", "lr"} <= taught
    assert any(not torch.equal(p, before[name]) for name, p in net.snapshot().items())


def test_early_stop_keeps_the_best(
    make_network: MakeNetwork,
    make_recipe: MakeRecipe,
    conversations: list[Conversation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    result = objectives.Validation(loss=0.0, terms={}, flag_rate=0.5, fpr=0.0, auroc=0.5)
    monkeypatch.setattr(loop, "validate", lambda *_: objectives.Validation(**{**_fields(result), "loss": next(losses)}))
    recipe = make_recipe(optimiser={"steps": 50}, validation={"every": 1, "patience": 2})
    done = run(make_network()[0], conversations, recipe, tmp_path)
    assert (done.steps, done.best_step) == (4, 2)


def _fields(result: objectives.Validation) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("loss", "terms", "flag_rate", "fpr", "auroc")}


def test_a_rate_that_diverges_stops_at_once_with_step_and_term(
    make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    recipe = make_recipe(
        optimiser={"steps": 50, "lora_lr": 1e30, "row_lr": 1e30, "warmup": 0}, validation={"every": 50}
    )
    with pytest.raises(ConfigError, match=r"^step \d+: [\w ]+ is (nan|-?inf): the training diverged; lower") as caught:
        run(make_network()[0], conversations, recipe, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_gradient_that_is_not_finite_steps_nothing(
    make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation]
) -> None:
    net, _ = make_network()
    optimiser = make_optimiser(net, OptimiserSettings())
    next(iter(net.parameters.values())).register_hook(lambda gradient: gradient * math.nan)
    before = net.snapshot()
    with pytest.raises(ConfigError, match="step 1: gradient norm is nan"):
        train_step(net, optimiser, [("taught", conversations[:2])], make_recipe(), 0)
    assert all(torch.equal(a, before[name]) for name, a in net.snapshot().items())


def test_a_full_disk_leaves_the_last_checkpoint(
    make_network: MakeNetwork,
    make_recipe: MakeRecipe,
    conversations: list[Conversation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []

    def full_after_two(path: Path, content: bytes) -> None:
        if path.name == CHECKPOINT:
            if len(written) == 2:
                raise OSError(28, "No space left on device")
            written.append(content)
        path.write_bytes(content)

    message = r"step 6 cannot be saved \(No space left on device\)"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_atomically", full_after_two)
        with pytest.raises(StorageError, match=message):
            run(make_network(first_layer=1)[0], conversations, make_recipe(), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == written[1]
    assert run(make_network(first_layer=1)[0], conversations, make_recipe(), tmp_path).resumed_at == 4


def test_a_checkpoint_of_another_training_is_refused(
    make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    net, _ = make_network()
    run(net, conversations, make_recipe(), tmp_path)
    with pytest.raises(ConfigError, match="belongs to another training"):
        run(net, conversations, make_recipe(), tmp_path, fingerprint="g")
    assert run(make_network()[0], conversations, make_recipe(), tmp_path, fingerprint="g", resume=False).resumed_at == 0
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="not readable as a checkpoint"):
        run(net, conversations, make_recipe(), tmp_path)


def test_the_log_holds_numbers_only(
    make_network: MakeNetwork, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    run(make_network()[0], conversations, make_recipe(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["event"] == "validation"] == [2, 4, 6]
    assert all(isinstance(value, int | float) for row in rows for name, value in row.items() if name != "event")
    assert {"val_flag_rate", "val_fpr", "val_auroc", "val_hazard"} <= set(rows[-1])


def test_the_curve_is_drawn_or_its_lack_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history: list[dict[str, float | str]] = [
        {"event": "train", "step": 1, "loss": 2.0},
        {"event": "validation", "step": 1, "val_loss": 2.5, "val_fpr": 0.25},
    ]
    caplog.set_level("INFO")
    drawn = draw_curve(history, tmp_path / "curve.png")
    if drawn:
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert "matplotlib is not installed" in caplog.text
