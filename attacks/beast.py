"""Suffixes grown by beam search over what the model itself would write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rfbench.attack import PromptAttack
from rfbench.errors import AttackError
from rfbench.models.base import Capability, ChatModel
from rfbench.records import Attempt, Behavior

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PLACE = " x"
"""Stands where the suffix is to grow, while the chat is laid out."""


class Beast(PromptAttack):
    """Grow a suffix token by token: draw what the model would go on with, keep the beams that serve the target best.

    BEAST, "Fast Adversarial Attacks on Language Models In One GPU Minute", https://arxiv.org/abs/2402.15570. Readable,
    as it is drawn from the model's own distribution. It needs log-probabilities, no gradients. One attempt per step,
    with the best beam, from no suffix at step 0 on; that of the last step counts.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LOGPROBS})
    source: ClassVar[str] = "https://arxiv.org/abs/2402.15570"

    n_tokens: int = Field(default=40, ge=1, description="tokens of the suffix, one a step (arXiv 2402.15570)")
    beams: int = Field(default=15, ge=1, description="beams kept, k1 (arXiv 2402.15570)")
    draws: int = Field(default=15, ge=1, description="tokens drawn per beam, k2 (arXiv 2402.15570)")
    temperature: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="of the draws (arXiv 2402.15570 samples at 1)"
    )
    first: int | None = Field(default=None, ge=1, description="tokens of the target that count; unset: all of them")
    non_ascii: bool = Field(default=False, description="draw also ids that are not printable ASCII")
    every: int = Field(
        default=1, ge=1, description="steps between two attempts; the last step's always is one (rfbench)"
    )

    def craft(self, model: ChatModel, behavior: Behavior, rng: np.random.Generator) -> Iterator[Attempt]:
        """Yield the attempts of one search.

        Raises:
            AttackError: the model gives no log-probabilities, there is no target, the suffix does not fit the context,
                no drawn token survives re-tokenisation, or a loss is not finite.
        """
        import numpy as np

        from rfbench.gcg.blackbox import BlackBox

        box = BlackBox(model, behavior, PLACE, first=self.first, non_ascii=self.non_ascii)
        n_longest = len(box.layout.fill([0] * self.n_tokens))
        if n_longest > model.max_context:
            raise AttackError(
                f"behavior {behavior.behavior_id!r}: prompt, suffix and target make {n_longest} tokens, more than the "
                f"context of {model.max_context}; lower n_tokens"
            )
        beams = np.empty((1, 0), dtype=np.int64)
        yield box.attempt((), float(box.losses([()])[0]), step=0, attempt_idx=0, final=False)
        for step in range(1, self.n_tokens + 1):
            drawn = draw_without_replacement(box.continuations(beams) / self.temperature, self.draws, rng)
            longer = np.column_stack([np.repeat(beams, drawn.shape[1], axis=0), box.allowed[drawn].ravel()])
            candidates = box.survivors(longer)
            if not len(candidates):
                raise AttackError(
                    f"behavior {behavior.behavior_id!r}: none of {len(longer)} candidates survives decoding and "
                    "re-encoding inside the chat; raise draws"
                )
            losses = box.losses(candidates)
            best = np.argsort(losses, kind="stable")[: self.beams]
            beams = candidates[best]
            final = step == self.n_tokens
            if final or step % self.every == 0:
                suffix, loss, idx = tuple(beams[0].tolist()), float(losses[best[0]]), -(-step // self.every)
                yield box.attempt(suffix, loss, step=step, attempt_idx=idx, final=final)


def draw_without_replacement(log_p: npt.NDArray[np.float64], k: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """``k`` different columns of each row, drawn by ``log_p`` ``(b, n)``, which need not sum to one (Gumbel top-k)."""
    import numpy as np

    noisy = log_p + rng.gumbel(size=log_p.shape)
    return np.argsort(-noisy, axis=1, kind="stable")[:, : min(k, log_p.shape[1])]
