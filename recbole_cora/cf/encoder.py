"""Frozen CF encoders: eq. (1), `e_u, e_i = f_psi(u, i)`.

To make another RecBole model an encoder, write one function from (model, interaction) to its two embeddings and name
it in PAIR_EMBEDDINGS; `--cf_encoder=` takes the model's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from recbole_cora.data.recbole_dataset import ROW

#: (model, interaction of N rows) -> e_u [N, c], e_i [N, c].
PairEmbedding = Callable[[Any, Any], tuple[Tensor, Tensor]]


def _factors(model: Any, interaction: Any) -> tuple[Tensor, Tensor]:
    user, item = interaction[model.USER_ID], interaction[model.ITEM_ID]
    e_u, e_i = model.get_user_embedding(user), model.get_item_embedding(item)
    if getattr(model, "bias", False):  # each side's bias is one more coordinate of its embedding
        e_u = torch.cat([e_u, model.user_bias(user)], dim=-1)
        e_i = torch.cat([e_i, model.item_bias(item)], dim=-1)
    return e_u, e_i


def _propagated(model: Any, interaction: Any) -> tuple[Tensor, Tensor]:
    users, items = model.propagated()
    return users[interaction[model.USER_ID]], items[interaction[model.ITEM_ID]]


def _sequence_state(model: Any, interaction: Any) -> tuple[Tensor, Tensor]:
    state = model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    return state, model.item_embedding(interaction[model.ITEM_ID])


PAIR_EMBEDDINGS: dict[str, PairEmbedding] = {
    "MF": _factors,
    "BPR": _factors,
    "LGCN": _propagated,
    "SAS": _sequence_state,
    "SASRec": _sequence_state,
}


class FrozenEncoder(nn.Module):
    """A trained CF model that only answers with a row's CF memory: e_u, e_i, and evidence.

    Evidence is what CF knows of a pair and an embedding of each side does not show: the model's own score, co-liking
    with the history (see `evidence.py`); none makes the memory the paper's. One memory token makes cross-attention a
    linear map, so even e_u . e_i, all that an inner-product model knows of a pair, would have to be learned again.

    CF embeddings come in any scale (SASRec's are near 1, MF's near 0.1), so each part of the memory is centred and
    divided by its root mean square over the train rows, and weighs alike; within e_u or e_i, coordinates keep their
    proportions.

    Args:
        model: a trained RecBole model; frozen here.
        name: its key in PAIR_EMBEDDINGS.
        evidence: [R, m] of all rows.
        batches: the train interactions, to measure the parts on.
    """

    evidence: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, model: Any, name: str, evidence: Tensor, batches: Iterable[Any]) -> None:
        super().__init__()
        self.name, self._embed = name, PAIR_EMBEDDINGS[name]
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("evidence", evidence)
        with torch.no_grad():
            rows = [self._parts(batch) for batch in batches]
        parts = [torch.cat(part).double() for part in zip(*rows, strict=True)]
        mean = [part.mean(dim=0) for part in parts]
        # A part of n coordinates gets length sqrt(total / parts): coordinates near 1 on average, parts equally long.
        length = (sum(part.shape[1] for part in parts) / len(parts)) ** 0.5
        scale = [
            (length / (part - centre).norm(dim=1).square().mean().sqrt().clamp_min(1e-6)).expand(part.shape[1])
            for part, centre in zip(parts, mean, strict=True)
        ]
        self.register_buffer("mean", torch.cat(mean).float())
        self.register_buffer("scale", torch.cat(scale).float())

    @property
    def memory_size(self) -> int:
        """Coordinates of the memory: 2c + m."""
        return self.mean.numel()

    @property
    def side_size(self) -> int:
        """Coordinates of e_u, or of e_i, with the evidence beside: c + m."""
        return (self.memory_size + self.evidence.shape[1]) // 2

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode: it is frozen, its dropout too."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Of N rows: e_u [N, c], e_i [N, c], and the evidence [N, m]."""
        memory = (torch.cat(self._parts(interaction), dim=-1) - self.mean) * self.scale
        pair, evidence = memory.tensor_split([self.memory_size - self.evidence.shape[1]], dim=-1)
        e_u, e_i = pair.chunk(2, dim=-1)
        return e_u, e_i, evidence

    def _parts(self, interaction: Any) -> tuple[Tensor, ...]:
        evidence = self.evidence[interaction[ROW]]
        return (*self._embed(self.model, interaction), *evidence.split(1, dim=-1))
