"""Controls: is it the CF vectors that help? An encoder that answers as if it knew less.

    own       what it knows
    zeroed    nothing of any pair
    shuffled  of each row, what it knows of a random row of another user: as good, but of the wrong pair
    random    of each user and item, a random vector of its own: who it is, but not who is like it

Evidence goes the same way (random: as zeroed).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_cora.cf.encoder import FrozenEncoder
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_dataset import ROW


class ControlledEncoder(nn.Module):
    """Stands where a FrozenEncoder does, and answers as `control` says.

    Args:
        encoder: what is controlled.
        control: zeroed, shuffled or random.
        rows: every row's interaction, in order.
        ratings, seed: whose rows, and how they are drawn.
    """

    instead: Tensor
    of_user: Tensor
    of_item: Tensor
    user_of_row: Tensor
    item_of_row: Tensor

    def __init__(self, encoder: FrozenEncoder, control: str, rows: Any, ratings: Ratings, seed: int) -> None:
        super().__init__()
        self.encoder, self.name, self.control, self._rows = encoder, encoder.name, control, rows
        draw = np.random.default_rng(seed)
        self.memory_size, self.side_size = encoder.memory_size, encoder.side_size
        self.register_buffer("instead", torch.from_numpy(_of_another_user(ratings, draw)))
        tables = {"user": len(ratings.user_tokens), "item": len(ratings.item_tokens)}
        c = (encoder.memory_size - encoder.evidence.shape[1]) // 2
        for side, size in tables.items():
            self.register_buffer(f"of_{side}", torch.from_numpy(draw.standard_normal((size, c), dtype=np.float32)))
            self.register_buffer(f"{side}_of_row", torch.from_numpy(np.asarray(getattr(ratings, side), dtype=np.int64)))

    def train(self, mode: bool = True) -> ControlledEncoder:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Of N rows, as the encoder's: e_u [N, c], e_i [N, c], evidence [N, m]."""
        row = interaction[ROW]
        if self.control == "shuffled":
            found: tuple[Tensor, Tensor, Tensor] = self.encoder(self._rows[self.instead[row].cpu()].to(row.device))
            return found
        e_u, e_i, evidence = map(torch.zeros_like, self.encoder(interaction))
        if self.control == "random":
            e_u, e_i = self.of_user[self.user_of_row[row]], self.of_item[self.item_of_row[row]]
        return e_u, e_i, evidence


#: Either answers with e_u [N, c], e_i [N, c] and evidence [N, m].
CFEncoder = FrozenEncoder | ControlledEncoder


def _of_another_user(ratings: Ratings, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """For each row [R] a random row of its split, of another user where there is one."""
    instead = np.arange(len(ratings))
    for split in SPLITS:
        rows = ratings.rows(split)
        chosen = draw.permutation(rows)
        for _ in range(10):  # each draw leaves few rows with their own user
            same = ratings.user[chosen] == ratings.user[rows]
            chosen[same] = draw.choice(rows, int(same.sum()))
        instead[rows] = chosen
    return instead
