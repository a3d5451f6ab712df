"""Vectors in the prompt: what stands in a prompt's slots instead of tokens' embeddings.

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
    """Of N prompts: where their slots are, and what stands there.

    places: token positions [S] of each prompt.
    vectors: [N, S, d], in the scale of the LLM's token embeddings.
    """

    places: Sequence[Sequence[int]]
    vectors: Tensor

    def __post_init__(self) -> None:
        if any(len(places) != self.vectors.shape[1] for places in self.places):
            found = sorted({len(places) for places in self.places})
            raise LLMError(f"prompts have {found} slots; expected {self.vectors.shape[1]}, one for each vector")

    def select(self, index: Sequence[int]) -> SlotVectors:
        """Those of the prompts at `index`, in that order."""
        return SlotVectors([self.places[n] for n in index], self.vectors[list(index)])


@contextmanager
def in_slots(embedding: nn.Module, slots: SlotVectors, starts: Sequence[int]) -> Iterator[None]:
    """Within this context `embedding` answers with the vectors in the slots.

    Args:
        embedding: the LLM's token embedding.
        starts: where each prompt begins in what is read, counted over all its tokens: in one packed row, or in a padded
            batch, flattened.
    """
    flat = torch.tensor([start + p for start, places in zip(starts, slots.places, strict=True) for p in places])

    def fill(module: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> Tensor:
        rows = embedded.flatten(0, 1)  # [tokens, d]
        own = slots.vectors.flatten(0, 1).to(embedded)  # [N S, d]
        return rows.index_copy(0, flat.to(embedded.device), own).view_as(embedded)

    handle = embedding.register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()
