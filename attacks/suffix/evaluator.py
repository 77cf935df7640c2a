"""Losses and gradients of suffixes under one model, each position computed as seldom as attention allows.

Three ideas make it fast, none of which changes a result: logits at target positions only; keys and values of the
longest shared prefix of a batch, unchanged suffix tokens included, computed once; the gradient with respect to
embeddings, multiplied once by the embedding matrix. Rows are padded on the right, so causal attention needs no masks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from rfbench.attacks.suffix.candidates import Scores, first_change
from rfbench.attacks.suffix.costs import Costs
from rfbench.attacks.suffix.layout import Ids, Layout
from rfbench.attacks.suffix.objectives import Objective
from rfbench.errors import AttackError
from rfbench.models.hf.batching import BatchSizer, in_batches
from rfbench.models.hf.cpu import packed_if_right
from rfbench.models.hf.generation import PrefixMemory, common_prefix
from rfbench.models.hf.kept import logits_at
from rfbench.models.hf.ways import Ways, grouped

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose past is keys and values by position, so that a prefix of it can be reused."""

CPU_BATCH, DEVICE_BATCH = 8, 512
"""Candidates at a time. Small batches share longer prefixes; on accelerators, launching work costs more than that."""
MAX_ROOTS = 16
"""Chats whose beginnings are kept, as keys and values, where several are searched in turn."""

T = TypeVar("T")


class Evaluator:
    """Evaluates suffixes under one model.

    Operations are counted as two per weight and token computed, as often for the way back (the gradient reaches
    activations only), with the output head at target positions alone. Attention scores are left out: suffixes are
    short. Tokens before a suffix are counted in :meth:`prefix_flops`, so that a count does not depend on the cache.

    Args:
        module: a causal language model of transformers.
        objective: what is minimised.
        flag_id: id whose logit gets ``flag_bias`` before anything is read from logits.
        flag_bias: the model's operating point.
        batch: sequences at a time, halved while memory runs out; by default :data:`CPU_BATCH` on CPUs and
            :data:`DEVICE_BATCH` elsewhere.
        costs: what a token costs, where it cannot be read from the weights (a quantised copy).
        pack: on CPUs, compute with packed weights; see :func:`rfbench.models.hf.cpu.packed`.
        ways: in which the module may be run.
    """

    def __init__(
        self,
        module: Any,
        objective: Objective,
        *,
        flag_id: int | None = None,
        flag_bias: float = 0.0,
        batch: int | None = None,
        costs: Costs | None = None,
        pack: bool = True,
        ways: Ways | None = None,
    ) -> None:
        self.module = module
        self.ways = ways or Ways()
        self._reader = packed_if_right(module) if pack else module
        self.objective = objective
        self.shares_prefixes = self.ways.caches and shares_prefixes(module)
        self._flag = (flag_id, flag_bias)
        embedding = module.get_input_embeddings()
        self.device: torch.device = embedding.weight.device
        self._sizer = self.sizer(batch, CPU_BATCH)
        self._roots: dict[Ids, PrefixMemory] = {}
        self.reach = PrefixMemory(module.config).reach
        self.costs = costs or Costs.of(module)

    def score(self, layout: Layout, candidates: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> Scores:
        """Evaluate candidates ``(c, s)``; ``current`` ``(s,)`` is the suffix that they are variations of.

        The candidates that leave most of ``current`` unchanged come first, so that every batch finds its prefix
        among the keys and values that the batch before it used.

        Raises:
            AttackError: memory does not suffice for one candidate.
        """
        self.rewind(layout)
        order = np.argsort(-first_change(candidates, current), kind="stable")
        rows = [layout.fill(candidates[i].tolist()) for i in order]
        losses = np.empty(len(rows))
        matched = np.empty(len(rows), dtype=np.bool_)
        flops = 0.0
        done = 0
        for part in self.batches(rows, lambda batch: self._score_batch(batch, layout)):
            where = order[done : done + len(part.losses)]
            losses[where], matched[where] = part.losses, part.matched
            flops += part.flops
            done += len(part.losses)
        return Scores(losses, matched, flops)

    def prefix_flops(self, layout: Layout) -> float:
        """The cost of computing once what stands before the suffix, where that is kept from step to step."""
        return self.costs.forward(len(layout.before), 0) if self.shares_prefixes else 0.0

    def gradients(self, suffixes: Sequence[tuple[Layout, Ids]]) -> tuple[list[torch.Tensor], float]:
        """Gradients of the losses with respect to one-hot suffix tokens, ``(s, v)`` in fp32 each, and their cost.

        Raises:
            AttackError: memory does not suffice for one sequence.
        """
        gradients: dict[int, torch.Tensor] = {}
        flops = 0.0
        for group in grouped(suffixes, lambda pair: self.ways.full_pass_group(len(pair[0].fill(pair[1])))):
            found: list[torch.Tensor] = []
            for part, cost in self.batches([suffixes[i] for i in group], self._differentiate):
                found += part
                flops += cost
            gradients.update(zip(group, found, strict=True))
        return [gradients[i] for i in range(len(suffixes))], flops

    @torch.no_grad()
    def measure(self, layout: Layout, suffix: Ids, figures: Mapping[str, Objective]) -> dict[str, float]:
        """Figures of one suffix, for its record: they count as no cost of the search and do not change it."""
        logits, targets, _ = self._at_targets([layout.fill(suffix)], layout, len(layout.before))
        return {name: figure(logits, targets).item() for name, figure in figures.items()}

    def at_target(self, layout: Layout, suffix: Ids) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Logits at the target, and how much the loss depends on each of its tokens.

        Returns:
            Logits ``(1, t, v)`` in fp32; the norms of the loss's gradients with respect to them ``(t,)``; the cost.
        """
        row = layout.fill(suffix)
        with torch.no_grad():
            logits, targets, n_tokens = self._at_targets([row], layout, len(row) - len(layout.target) - 1)
        free = logits.detach().requires_grad_()
        with torch.enable_grad():
            (by_logit,) = torch.autograd.grad(self.objective(free, targets).sum(), free)
        return logits, by_logit[0].norm(dim=-1), self.costs.forward(n_tokens, targets.numel())

    def at_vectors(
        self, layout: Layout, vectors: torch.Tensor, figures: Mapping[str, Objective]
    ) -> tuple[dict[str, float], torch.Tensor, float]:
        """Figures where the model reads vectors ``(s, d)`` in place of the suffix.

        Returns:
            The ``loss`` and the figures; the gradient of the loss with respect to the vectors ``(s, d)``; its cost.
        """
        ids = layout.fill(layout.suffix)
        start, stop = len(layout.before), len(layout.before) + len(layout.suffix)
        with torch.no_grad():
            around = self.module.get_input_embeddings()(torch.tensor([ids], device=self.device))
        free = vectors.detach().requires_grad_()
        first, n_target = len(ids) - len(layout.target) - 1, len(layout.target)
        with torch.enable_grad():
            inputs = torch.cat([around[:, :start], free[None].to(around.dtype), around[:, stop:]], dim=1)
            keep = torch.arange(first, first + n_target, device=self.device)
            logits = self.logits(keep, inputs_embeds=inputs, use_cache=False)
            targets = torch.tensor([layout.target], device=self.device)
            loss = self.objective(logits, targets)
            (gradient,) = torch.autograd.grad(loss.sum(), free)
        values = {"loss": loss.item()} | {n: figure(logits.detach(), targets).item() for n, figure in figures.items()}
        return values, gradient, 2.0 * self.costs.forward(len(ids), n_target)

    @torch.no_grad()
    def _score_batch(self, rows: Sequence[Ids], layout: Layout) -> Scores:
        # The token before the target gives the first logits: it must be computed.
        logits, targets, n_tokens = self._at_targets(rows, layout, len(rows[0]) - len(layout.target) - 1)
        losses = self.objective(logits, targets).double().cpu().numpy()
        # Argmax takes four times as long on CPUs: it only settles ties, of which decoding takes the first id.
        matched = (logits.gather(-1, targets[..., None])[..., 0] == logits.amax(dim=-1)).all(dim=-1)
        matched[matched.clone()] = (logits[matched].argmax(dim=-1) == targets[matched]).all(dim=-1)
        return Scores(losses, matched.cpu().numpy(), self.costs.forward(n_tokens, targets.numel()))

    def _at_targets(self, rows: Sequence[Ids], layout: Layout, limit: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Logits ``(b, t, v)`` and ids ``(b, t)`` of the target, and how many tokens had to be computed."""
        length, n_target = len(rows[0]), len(layout.target)
        ids, cache, shared, n_new = self.share(self._inputs(rows), limit, len(layout.before))
        keep = torch.arange(length - n_target - 1, length - 1, device=self.device) - shared
        logits = self.logits(keep, input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        targets = torch.tensor([layout.target], device=self.device).expand(len(rows), n_target)
        return logits, targets, n_new + ids.numel()

    def _inputs(self, rows: Sequence[Ids]) -> Sequence[Ids]:
        """Nothing of a target follows its last token, which is no input, but where the length itself counts."""
        return rows if self.ways.border is not None else [row[:-1] for row in rows]

    def _differentiate(self, suffixes: Sequence[tuple[Layout, Ids]]) -> tuple[list[torch.Tensor], float]:
        rows = [layout.fill(suffix) for layout, suffix in suffixes]
        with torch.no_grad():
            limit = min(len(layout.before) for layout, _ in suffixes)
            ids, cache, shared, _ = self.share(self._inputs(rows), limit, limit)
            embeddings = self.module.get_input_embeddings()(ids)
        embeddings.requires_grad_()
        wanted = [
            range(len(row) - len(layout.target) - 1, len(row) - 1)
            for row, (layout, _) in zip(rows, suffixes, strict=True)
        ]
        union = sorted({position for positions in wanted for position in positions})
        with torch.enable_grad():
            logits = self.logits(
                torch.tensor(union, device=self.device) - shared,
                inputs_embeds=embeddings.clone(),  # some scale what they read in place, which no leaf bears
                past_key_values=cache,
                use_cache=cache is not None,
            )
            losses = [
                self.objective(
                    logits[i : i + 1, [union.index(position) for position in positions]],
                    torch.tensor([layout.target], device=self.device),
                )
                for i, (positions, (layout, _)) in enumerate(zip(wanted, suffixes, strict=True))
            ]
            (by_embedding,) = torch.autograd.grad(torch.cat(losses).sum(), embeddings)
        vectors = self.token_vectors()
        gradients = []
        for i, (layout, suffix) in enumerate(suffixes):
            start = len(layout.before) - shared
            gradients.append((by_embedding[i, start : start + len(suffix)] @ vectors.T).float())
        n_rows, n_logits = ids.numel(), len(rows) * len(union)
        products = 2.0 * vectors.numel() * sum(len(suffix) for _, suffix in suffixes)
        return gradients, 2.0 * self.costs.forward(n_rows, n_logits) + products

    @torch.no_grad()
    def token_vectors(self) -> torch.Tensor:
        """What the model reads for each id, ``(v, d)``: some embeddings, or hooks on them, change the matrix's rows."""
        embedding = self.module.get_input_embeddings()
        weight: torch.Tensor = embedding.weight
        if type(embedding) is torch.nn.Embedding and not embedding._forward_hooks:
            return weight.detach()
        vectors: torch.Tensor = embedding(torch.arange(len(weight), device=self.device))
        return vectors

    def shares(self, length: int) -> bool:
        """Whether chats of so many tokens may go on from keys and values of what they have in common."""
        return self.shares_prefixes and self.ways.serves(length, 0)

    def share(self, rows: Sequence[Ids], limit: int, n_root: int) -> tuple[torch.Tensor, Any, int, int]:
        """What is left to compute of rows once their shared prefix, of up to ``limit`` tokens, is cached.

        The first ``n_root`` tokens of the prefix are computed in one piece, and kept for the chats seen last: pieces of
        other sizes give other roundings, and a search must not depend on what ran before it.

        Returns:
            Ids ``(b, l - shared)``, padded on the right; the cache of the prefix for ``b`` rows, ``None`` without
            one; its length; how many of its tokens, the root's aside, had to be computed now.
        """
        longest = max(map(len, rows))
        shared = min(common_prefix(rows), limit) if self.shares(longest) else 0
        cache, n_new = None, 0
        if shared:
            root = rows[0][: min(n_root, shared)]
            memory = self._remembered(root)
            before = memory.n_computed
            single = memory.prefill(self._reader, rows[0][:shared], self.device)
            cache, n_new = single.copy_rows(len(rows), longest), memory.n_computed - before
        padded = [(*row[shared:], *[0] * (longest - len(row))) for row in rows]
        return torch.tensor(padded, device=self.device), cache, shared, n_new

    def _remembered(self, root: Ids) -> PrefixMemory:
        """The memory of what begins with ``root``: several chats are searched in turn, and each is computed once."""
        memory = self._roots.pop(root, None)
        if memory is None:
            memory = PrefixMemory(self.module.config)
            memory.prefill(self._reader, root, self.device)
            for forgotten in list(self._roots)[: max(0, len(self._roots) + 1 - MAX_ROOTS)]:
                del self._roots[forgotten]
        self._roots[root] = memory  # last: the one used longest ago goes first
        return memory

    def rewind(self, layout: Layout) -> None:
        """Forget prefixes but for what stands before the suffix: no rounding and no cost must depend on them."""
        if self.shares_prefixes:
            self.share([layout.before], len(layout.before), len(layout.before))

    def logits(self, keep: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Logits ``(b, len(keep), v)`` in fp32 at the kept positions, flag bias included."""
        logits = logits_at(self._reader, keep, **inputs).float()
        flag_id, bias = self._flag
        if flag_id is not None and bias:
            shift = torch.zeros(logits.shape[-1], device=logits.device)
            shift[flag_id] = bias
            logits = logits + shift
        return logits

    def sizer(self, batch: int | None, on_cpu: int) -> BatchSizer:
        """Sizes of batches: as asked, or ``on_cpu`` on CPUs and :data:`DEVICE_BATCH` elsewhere."""
        if not self.ways.batches:
            return BatchSizer(1)
        return BatchSizer(batch or (on_cpu if self.device.type == "cpu" else DEVICE_BATCH))

    def batches(
        self, items: Sequence[Any], call: Callable[[Sequence[Any]], T], sizer: BatchSizer | None = None
    ) -> Iterator[T]:
        """Results of ``call`` on successive batches of ``items``, in the evaluator's own sizes by default."""

        def too_large(_: Any) -> AttackError:
            return AttackError("out of memory with a single sequence; take a shorter target or a smaller dtype")

        return in_batches(items, call, sizer or self._sizer, too_large=too_large, forget=self._forget)

    def _forget(self) -> None:
        self._roots = {}
        logger.warning("out of memory, going on with fewer sequences at a time")


def shares_prefixes(module: Any) -> bool:
    """Whether the past of this architecture is keys and values by position, in every layer."""
    config = module.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    return not getattr(module, "_is_stateful", False) and kinds <= ATTENTION
