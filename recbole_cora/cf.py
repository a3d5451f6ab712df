"""Frozen CF encoders: eq. (1), `e_u, e_i = f_psi(u, i)`.

To make another RecBole model an encoder, write one function from (model, interaction) to its two embeddings and name
it in PAIR_EMBEDDINGS; `--cf_encoder=` takes the model's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: (model, interaction of N rows) -> e_u [N, c], e_i [N, c'].
PairEmbedding = Callable[[Any, Any], tuple[Tensor, Tensor]]


def _factors(model: Any, interaction: Any) -> tuple[Tensor, Tensor]:
    user, item = interaction[model.USER_ID], interaction[model.ITEM_ID]
    e_u, e_i = model.get_user_embedding(user), model.get_item_embedding(item)
    if getattr(model, "bias", False):  # a bias is a coordinate whose partner is 1
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
    """A trained CF model that only answers with a pair's embeddings, each coordinate standardised.

    CF embeddings come in any scale (SASRec's are near 1, MF's near 0.1); the generator sees coordinates of mean 0 and
    standard deviation 1 over the train rows, whatever the encoder.

    Args:
        model: a trained RecBole model; frozen here.
        name: its key in PAIR_EMBEDDINGS.
        batches: the train interactions, to measure the coordinates on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, name: str, batches: Iterable[Any]) -> None:
        super().__init__()
        self.name, self._embed = name, PAIR_EMBEDDINGS[name]
        self.model = model.requires_grad_(False).eval()
        with torch.no_grad():
            pairs = torch.cat([torch.cat(self._embed(self.model, batch), dim=-1) for batch in batches])
        self.register_buffer("mean", pairs.mean(dim=0))
        self.register_buffer("std", pairs.std(dim=0).clamp_min(1e-6))

    @property
    def pair_size(self) -> int:
        """Coordinates of e_u and e_i together: 2c."""
        return self.mean.numel()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode: it is frozen, its dropout too."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, interaction: Any) -> Tensor:
        """e_u and e_i of N rows, concatenated and standardised: [N, 2c]."""
        return (torch.cat(self._embed(self.model, interaction), dim=-1) - self.mean) / self.std
