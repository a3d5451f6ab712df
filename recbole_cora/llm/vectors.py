"""Vectors in the prompt: they replace the token embeddings at a prompt's slots.

Legend: N prompts, S slots of a prompt, L tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_cora.errors import LLMError


@dataclass(frozen=True, eq=False)
class SlotVectors:
    """The slots of N prompts and their vectors.

    positions: token positions [S] of each prompt's slots.
    vectors: [N, S, d], in the scale of the LLM's token embeddings.
    """

    positions: Sequence[Sequence[int]]
    vectors: Tensor

    def __post_init__(self) -> None:
        if any(len(slots) != self.vectors.shape[1] for slots in self.positions):
            counts = sorted({len(slots) for slots in self.positions})
            raise LLMError(f"prompts have {counts} slots; expected {self.vectors.shape[1]}, one for each vector")

    def select(self, index: Sequence[int]) -> SlotVectors:
        """Return the slots of the prompts at `index`, in that order."""
        return SlotVectors([self.positions[n] for n in index], self.vectors[list(index)])


@contextmanager
def in_slots(embedding: nn.Module, slots: SlotVectors, starts: Sequence[int]) -> Iterator[None]:
    """Make `embedding` return the vectors at the slots within this context.

    Args:
        embedding: the LLM's token embedding.
        starts: index of each prompt's first token in the packed row, or in the flattened padded batch.
    """
    flat = torch.tensor([start + p for start, row in zip(starts, slots.positions, strict=True) for p in row])

    def fill(module: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> Tensor:
        rows = embedded.flatten(0, 1)  # [tokens, d]
        vectors = slots.vectors.flatten(0, 1).to(embedded)  # [N S, d]
        return rows.index_copy(0, flat.to(embedded.device), vectors).view_as(embedded)

    handle = embedding.register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()
