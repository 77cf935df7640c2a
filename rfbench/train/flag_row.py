"""The flag's row before the first gradient step.

Tied embeddings have one row, which is both the flag's output row and its input embedding: what makes a good
detector is then also what the model reads after a flag, and the term after the flag has to mend that. Untied
ones have two: the output row gets the detector, the input row the mean embedding, which reads as nothing special.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rfbench.train.batches import Batch, stream

if TYPE_CHECKING:
    from rfbench.train.conversations import Conversation
    from rfbench.train.network import Network
    from rfbench.train.recipe import Recipe

PROBED = 150
"""Conversations of each kind that the probe is fitted on."""
HARMFUL_LOG_P, BENIGN_LOG_P = -1.0, -11.0
"""log P(flag) aimed at on harmful and on benign positions, nats."""
RIDGE = 1e-3
"""Ridge penalty, share of the mean squared hidden coordinate."""


def probe_row(
    hidden: Tensor,
    rest: Tensor,
    is_harmful: Tensor,
    *,
    harmful_log_p: float = HARMFUL_LOG_P,
    benign_log_p: float = BENIGN_LOG_P,
    ridge: float = RIDGE,
    product_of: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Tensor:
    """The row ``w`` whose logit ``w.h`` is ``L + log P`` for the wanted ``log P(flag)``, by ridge regression.

    ``L`` is the log-sum-exp of the other logits, so that ``w.h = L - 1`` asks for P(flag) near e^-1 (a little
    less, as the flag itself joins the sum). Both classes weigh the same, however many positions each has. In closed
    form ``(H' D H + lambda I)^-1 H' D y`` in float64, ``lambda = ridge * trace(H' D H) / d``.

    Args:
        hidden: final-norm hidden states, ``(n, d)``.
        rest: ``L`` at each of these positions, ``(n,)``.
        is_harmful: ``(n,)`` bool.
        harmful_log_p: aimed at on harmful positions, nats.
        benign_log_p: aimed at on benign positions, nats.
        ridge: penalty, share of the mean squared coordinate.
        product_of: the ``w.h`` that gives a logit, where a model scales or caps its logits.

    Returns:
        ``(d,)`` in the dtype of ``hidden``.

    Raises:
        ValueError: one of the classes has no position.
    """
    counts = torch.stack([(~is_harmful).sum(), is_harmful.sum()]).double()
    if not bool((counts > 0).all()):
        raise ValueError("a probe needs harmful and benign positions")
    h = hidden.double()
    weight = (0.5 / counts)[is_harmful.long()]
    wanted = product_of(rest.double() + torch.where(is_harmful, harmful_log_p, benign_log_p))
    weighted = h * weight[:, None]
    gram = weighted.T @ h
    gram.diagonal().add_(ridge * gram.trace() / len(gram))
    row: Tensor = torch.linalg.solve(gram, weighted.T @ wanted).to(hidden.dtype)
    return row


def undone(finish: Callable[[Tensor], Tensor], logits: Tensor, most: float) -> Tensor:
    """The numbers within ``most`` of 0 that the rising function ``finish`` takes to ``logits``, or nearest to them.

    By halving intervals: a cap has no inverse beyond itself, and what ``finish`` is stands in no configuration.
    """
    low, high = torch.full_like(logits, -most), torch.full_like(logits, most)
    for _ in range(64):
        middle = (low + high) / 2
        below = finish(middle) < logits
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def mean_row(matrix: Tensor, flag_id: int) -> Tensor:
    """Mean of all rows but the flag's own, ``(v, d) -> (d,)``.

    What stands in the flag's row after resizing is random, and must not even reach the rounding.
    """
    return (matrix[:flag_id].sum(dim=0) + matrix[flag_id + 1 :].sum(dim=0)) / (len(matrix) - 1)


def set_row(net: Network, conversations: Sequence[Conversation], recipe: Recipe) -> None:
    """Give the flag's output row its start: the probe; mean and reserved rows stand already."""
    if recipe.flag is None or recipe.flag.init != "probe":
        return
    hidden, rest, kinds, largest = [], [], [], 0.0
    for kind in (True, False):
        pool = [c for c in conversations if c.taught is kind]
        order = stream(recipe.seed, "probe", kind).permutation(len(pool))[:PROBED]
        for i in order:
            labelled = torch.from_numpy(pool[i].labels == (1 if kind else -1)).to(net.device)
            reference = net.reference(Batch.of([pool[i]], net.device))[labelled]
            hidden.append(reference.float())
            rest.append(net.logits(reference).logsumexp(dim=-1))
            largest = max(largest, float(net.products(reference).abs().max()) if net.finish is not None else 0.0)
            kinds.append(torch.full((len(reference),), kind, device=net.device))
    finish = net.finish
    # A logit near its cap may take any product; none is asked for that is far from those of the other tokens.
    product_of = (lambda logits: logits) if finish is None else partial(undone, finish, most=2 * largest)
    row = probe_row(torch.cat(hidden), torch.cat(rest), torch.cat(kinds), product_of=product_of)
    assert net.row_out is not None
    with torch.no_grad():
        net.row_out[0] = row.to(net.row_out.dtype)
