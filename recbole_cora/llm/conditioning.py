"""Everything that may condition the frozen LLM on a batch of pairs, in one value.

Legend: N prompts, L tokens, T tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_cora.errors import LLMError
from recbole_cora.llm.deltas import PairWeights, attached
from recbole_cora.llm.families import WeightTarget
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.vectors import SlotVectors


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditioning of the LLM on N prompts; the default is none, which leaves the base LLM, bit for bit.

    targets: the projections that receive the pairs' weights.
    weights: the collaborative weights of the N pairs (CoRA).
    starts: the token of each prompt at which the weights begin to act (at least 1); None means every token. The tokens
        before it are read by the base LLM, once for all prompts that share them.
    slots: vectors in place of token embeddings (CoLLM, Prompt4NR, PersonPrompt).
    lora: one LoRA for all pairs (TALLRec and models built on it).
    """

    targets: Sequence[WeightTarget] = ()
    weights: PairWeights | None = None
    starts: Sequence[int] | None = None
    slots: SlotVectors | None = None
    lora: SharedLoRA | None = None

    def select(self, index: Sequence[int]) -> Conditioning:
        """Return the conditioning of the prompts at `index`, in that order."""
        return Conditioning(
            self.targets,
            None if self.weights is None else self.weights.select(index),
            None if self.starts is None else [self.starts[n] for n in index],
            None if self.slots is None else self.slots.select(index),
            self.lora,
        )

    def check(self, lengths: Sequence[int]) -> None:
        """Refuse starts outside the prompts, and starts together with slots.

        Args:
            lengths: number of tokens of each prompt.

        Raises:
            LLMError: as above.
        """
        if self.starts is None:
            return
        if self.slots is not None:  # a shared prefix is read by the base LLM, which would not see its slots
            raise LLMError("vectors in slots need weights that act on the whole prompt; leave out the starts")
        if not all(1 <= start < length for start, length in zip(self.starts, lengths, strict=True)):
            raise LLMError("a question begins outside its prompt; it must begin after the first token")

    @contextmanager
    def applied(self, lengths: Sequence[int] | None, acting: Tensor | None, layer: int | None = None) -> Iterator[None]:
        """Attach the LoRA and the weights to the LLM's projections within this context.

        Args:
            lengths: tokens of each prompt in a packed row; None for a padded batch.
            acting: mask of the tokens on which the weights act (see `deltas.attached`).
            layer: attach the weights to this block only; None means every block.
        """
        targets = self.targets if layer is None else [target for target in self.targets if target.layer == layer]
        with ExitStack() as stack:
            if self.lora is not None:
                stack.enter_context(self.lora.attached())
            if self.weights is not None:
                stack.enter_context(attached(targets, self.weights, lengths, acting))
            yield

    def acting_packed(self, prompts: Sequence[Sequence[int]]) -> Tensor | None:
        """Return the mask of the tokens on which the weights act in a packed row [1, T, 1]; None means every token."""
        if self.starts is None:
            return None
        masks = [torch.arange(len(ids)) >= start for ids, start in zip(prompts, self.starts, strict=True)]
        return torch.cat(masks)[None, :, None]

    def acting_padded(self, prompts: Sequence[Sequence[int]]) -> Tensor | None:
        """Return the mask of the tokens on which the weights act in a padded batch [N, L, 1]; None means all."""
        if self.starts is None:
            return None
        return (torch.arange(max(map(len, prompts))) >= torch.tensor(self.starts)[:, None]).unsqueeze(2)


#: No conditioning: the base LLM.
NOTHING = Conditioning()
