"""From conversations to loss terms: one figure per conversation and term, in nats.

Letters: ``c`` conversations, ``p`` positions, ``t`` answer positions, ``n`` positions taken together, ``d`` hidden
size, ``v`` vocabulary without the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfbench.models.hf.likelihood import answer_cross_entropy, kl_given_no_flag, log_odds
from rfbench.train import losses
from rfbench.train.batches import Batch, by_length
from rfbench.train.conversations import Conversation
from rfbench.train.network import Network
from rfbench.train.recipe import ObjectiveSettings, PerturbationSettings, Recipe

Part = Literal["harmful", "benign", "after_flag"]
_OF_HARMFUL = frozenset({"flag", "hazard", "missed", "harmful_kl", "refusal", "opening"})
"""Terms that are means over harmful conversations; the others are over benign ones."""
Terms = dict[str, Tensor]
"""Loss terms by name, each ``(c,)``."""
FlagTerms = Callable[[Tensor, bool], tuple[Terms, Tensor]]
"""Terms of the flag, and the logits ``(n, v)``, from what enters the trained part (or the whole body)."""


def term_weights(recipe: Recipe) -> dict[str, float]:
    """Weight of every term that the recipe uses; terms of weight 0 are not computed.

    ``both`` keeps the benign KL of ``dense``: with the false-alarm term it is the full KL of ``insertion``.
    """
    o = recipe.objective
    if recipe.kind == "refusal":
        weights = {
            "refusal": o.refusal_weight,
            "opening": o.opening_weight,
            "kl": o.kl_weight,
            "kl_peak": o.kl_peak_weight,
        }
    else:
        weights = {}
        if o.form != "dense":
            weights |= {"flag": o.flag_weight, "after_flag": o.after_flag_weight if o.after_flag_rows else 0.0}
        if o.form == "insertion":
            weights |= {"benign_kl": o.kl_weight}
        else:
            weights |= {
                "hazard": o.hazard_weight,
                "missed": o.missed_weight,
                "harmful_kl": o.harmful_kl_weight,
                "false_alarm": o.false_alarm_weight,
                "peak": o.peak_weight,
                "kl": o.kl_weight,
            }
    return {name: weight for name, weight in weights.items() if weight > 0}


def compute_terms(
    net: Network,
    conversations: Sequence[Conversation],
    part: Part,
    recipe: Recipe,
    index: npt.NDArray[np.int64],
    *,
    measure: bool = False,
) -> Terms:
    """The terms of one part of a step on a micro-batch.

    Args:
        net: the model.
        conversations: harmful ones, benign ones, or for ``after_flag`` either.
        part: which terms.
        recipe: objective and kind.
        index: an index into each answer, ``(c,)``: where the flag is inserted.
        measure: also give ``margin``, the flag's largest lead over every other token where the model generates.

    Returns:
        The terms whose weight is not 0; it may be none.
    """
    if part == "after_flag":
        return {"after_flag": after_flag(net, conversations, index)}
    used = {name for name in term_weights(recipe) if name != "after_flag"}
    names = {name for name in used if (name in _OF_HARMFUL) is (part == "harmful")} | ({"margin"} if measure else set())
    if not names:
        return {}
    batch = Batch.of(conversations, net.device)
    if recipe.kind == "refusal":
        return _refusal_terms(net, batch, part, names)
    if part == "harmful":
        return _harmful_terms(net, batch, recipe.objective, names, torch.from_numpy(index).to(net.device))
    return _benign_terms(net, batch, recipe.objective, names)


def _refusal_terms(net: Network, batch: Batch, part: Part, names: Collection[str]) -> Terms:
    logits = net.logits(net.hidden(net.states(batch))[batch.row, batch.position])
    if part == "harmful":
        loss = batch.pad(answer_cross_entropy(logits, batch.target))
        terms = {"refusal": losses.masked_mean(loss, batch.mask), "opening": loss[:, 0]}
    else:
        kl = batch.pad(kl_given_no_flag(logits, net.logits(net.reference(batch))))
        terms = {"kl": losses.masked_mean(kl, batch.mask), "kl_peak": losses.masked_max(kl, batch.mask)}
    return {name: values for name, values in terms.items() if name in names}


def _harmful_terms(
    net: Network, batch: Batch, objective: ObjectiveSettings, names: Collection[str], index: Tensor
) -> Terms:
    def flag_terms(states: Tensor, whole: bool) -> tuple[Terms, Tensor]:
        hidden = net.hidden(states, whole=whole)[batch.row, batch.position]
        logits = net.logits(hidden)
        s = batch.pad(log_odds(net.flag_logits(hidden), logits))
        terms: Terms = {}
        if "flag" in names:
            terms["flag"] = losses.flag_at(s, index)
        if "hazard" in names:
            terms["hazard"] = losses.hazard(s, batch.mask)
        if "missed" in names:
            terms["missed"] = losses.missed(s, _generated(batch))
        if "margin" in names:
            terms["margin"] = _margin(batch, net.flag_logits(hidden), logits)
        return terms, logits

    if objective.perturbation is None:
        terms, logits = flag_terms(net.states(batch), False)
    else:
        terms, logits = _under_perturbation(net, batch, objective.perturbation, flag_terms)
    if "harmful_kl" in names:
        kl = kl_given_no_flag(logits, net.logits(net.reference(batch)))
        terms["harmful_kl"] = losses.masked_mean(batch.pad(kl), batch.mask)
    return terms


def _under_perturbation(
    net: Network, batch: Batch, settings: PerturbationSettings, flag_terms: FlagTerms
) -> tuple[Terms, Tensor]:
    """Terms with the request's embeddings moved so that the flag is least likely (arXiv 2405.15589, section 3)."""
    embedded = net.embed(batch.ids).detach()
    unit = net.embedding_norm
    delta = torch.zeros_like(embedded)
    request = torch.zeros(batch.ids.shape, device=net.device)
    for r, c in enumerate(batch.conversations):
        request[r, c.user[0] : c.user[1]] = 1
    for _ in range(settings.steps):
        delta.requires_grad_(True)
        loss = torch.stack([t.sum() for t in flag_terms(embedded + delta, True)[0].values()]).sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = ascend(delta.detach(), gradient * request[..., None], settings, unit)
    return flag_terms(embedded + delta, True)


def ascend(delta: Tensor, gradient: Tensor, settings: PerturbationSettings, unit: float) -> Tensor:
    """One step of the inner attack, ``(c, p, d)``: along the gradient of each token, then back into its ball.

    ``unit`` is the length that radius and step are given in; tokens without a gradient stay.
    """
    delta = delta + settings.step_size * unit * torch.nn.functional.normalize(gradient, dim=-1)
    length = delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return delta * torch.clamp(settings.epsilon * unit / length, max=1.0)


def _benign_terms(net: Network, batch: Batch, objective: ObjectiveSettings, names: Collection[str]) -> Terms:
    hidden = net.hidden(net.states(batch))[batch.row, batch.position]
    logits = net.logits(hidden)
    s = batch.pad(log_odds(net.flag_logits(hidden), logits))
    terms: Terms = {}
    if "false_alarm" in names:
        terms["false_alarm"] = losses.false_alarm(s, batch.mask)
    if "peak" in names:
        terms["peak"] = losses.false_alarm_peak(s, batch.mask, objective.peak)
    if "margin" in names:
        terms["margin"] = _margin(batch, net.flag_logits(hidden), logits)
    if "kl" in names or "benign_kl" in names:
        kl = batch.pad(kl_given_no_flag(logits, net.logits(net.reference(batch))))
        if "benign_kl" in names:
            terms["benign_kl"] = losses.masked_mean(losses.kl_with_flag(s, kl), batch.mask)
        else:
            terms["kl"] = losses.masked_mean(kl, batch.mask)
    return terms


def after_flag(net: Network, conversations: Sequence[Conversation], index: npt.NDArray[np.int64]) -> Tensor:
    """Mean KL to the reference on what follows an inserted flag, ``(c,)``.

    The flag stands before answer id ``index``; from its own position on, the model is to predict what the reference
    predicts without it. Every layer is computed: with tied embeddings the row is trained as an input here.
    """
    assert net.flag_id is not None
    plain = Batch.of(conversations, net.device)
    counts = torch.tensor([c.n_answer for c in conversations], device=net.device)
    start = torch.from_numpy(index).to(net.device)
    flagged = torch.zeros((len(conversations), plain.ids.shape[1] + 1), dtype=torch.int64)
    for r, (c, i) in enumerate(zip(conversations, index.tolist(), strict=True)):
        at = c.start + i
        ids = np.concatenate([c.ids[:at], [net.flag_id], c.ids[at:-1]])
        flagged[r, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    after = plain.column >= start[plain.row]
    row, column = plain.row[after], plain.column[after] - start[plain.row[after]]
    hidden = net.hidden(net.embed(flagged.to(net.device)), whole=True)[row, plain.position[after] + 1]
    logits = net.logits(hidden)
    kl = kl_given_no_flag(logits, net.logits(net.reference(plain)[after]))
    values = losses.kl_with_flag(log_odds(net.flag_logits(hidden), logits), kl)
    shape = (len(conversations), int((counts - start).max()))
    padded = values.new_zeros(shape).index_put((row, column), values)
    return padded.sum(dim=-1) / (counts - start)


def draw_index(rng: np.random.Generator, lengths: Sequence[int], objective: ObjectiveSettings) -> npt.NDArray[np.int64]:
    """Insertion index for each answer, from 0 to its last id, ``(c,)``.

    Geometric draws have mean ``index_value`` and are cut at the last id.
    """
    n = np.asarray(lengths, dtype=np.int64)
    if objective.index == "uniform":
        return rng.integers(0, n)
    if objective.index == "geometric":
        return np.minimum(rng.geometric(1 / (1 + objective.index_value), size=len(n)) - 1, n - 1)
    return np.minimum(int(objective.index_value), n - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Held-out conversations, teacher-forced. Rates count answers where the flag would be the likeliest token.

    ``flag_rate`` and ``fpr`` are at bias 0, ``auroc`` is over the largest margin per answer: it knows no bias.
    Rates are NaN for a refusal training.
    """

    loss: float
    terms: dict[str, float]
    flag_rate: float
    fpr: float
    auroc: float


@torch.no_grad()
def validate(net: Network, conversations: Sequence[Conversation], recipe: Recipe, rows: int) -> Validation:
    """Measure the loss (but for the term after the flag) and the flag rates; ``rows`` conversations at once."""
    from scipy.stats import mannwhitneyu

    weights, sums, n = term_weights(recipe), dict[str, float](), {True: 0, False: 0}
    margins: dict[bool, list[float]] = {True: [], False: []}
    for harmful in (True, False):
        part: Part = "harmful" if harmful else "benign"
        for group in by_length([c for c in conversations if c.is_harmful is harmful], rows):
            middle = np.asarray([(c.n_answer - 1) // 2 for c in group])
            terms = compute_terms(net, group, part, _unperturbed(recipe), middle, measure=net.flag_id is not None)
            if net.flag_id is not None:
                margins[harmful] += terms.pop("margin").tolist()
            for name, values in terms.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            n[harmful] += len(group)
    means = {name: value / n[name in _OF_HARMFUL] for name, value in sums.items()}
    loss = sum(weights[name] * value for name, value in means.items())
    if net.flag_id is None:
        return Validation(loss=loss, terms=means, flag_rate=np.nan, fpr=np.nan, auroc=np.nan)
    wins = mannwhitneyu(margins[True], margins[False]).statistic
    rates = [float(np.mean(np.asarray(margins[kind]) > 0)) for kind in (True, False)]
    return Validation(
        loss=loss, terms=means, flag_rate=rates[0], fpr=rates[1], auroc=float(wins / (n[True] * n[False]))
    )


def _margin(batch: Batch, flag_logits: Tensor, logits: Tensor) -> Tensor:
    """Largest lead of the flag over every other token where the model would generate, ``(c,)``."""
    margin = batch.pad(flag_logits - logits.amax(dim=-1))
    return margin.masked_fill(_generated(batch) == 0, -torch.inf).amax(dim=-1)


def _generated(batch: Batch) -> Tensor:
    """``(c, t)``, 1 at answer positions that are not prefilled."""
    n_prefill = torch.tensor([c.n_prefill for c in batch.conversations], device=batch.row.device)
    return batch.pad((batch.column >= n_prefill[batch.row]).float())


def _unperturbed(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"perturbation": None})})
