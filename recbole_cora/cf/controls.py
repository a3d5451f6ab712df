"""Controls, which test whether the CF vectors help: each replaces the encoder's vectors by less informative ones.

    own       no control: the encoder's own vectors
    zeroed    zeros for every pair
    shuffled  for each row, the vectors of a random row of another user: as good, but of the wrong pair
    random    for each user and item, a fixed random vector: it identifies them, but says nothing about similarity

Evidence is replaced in the same way (random: by zeros).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_cora.cf.encoder import CFVectors, FrozenEncoder
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_dataset import ROW


class ControlledEncoder(nn.Module):
    """A replacement for a FrozenEncoder that returns the vectors of a control.

    Args:
        encoder: the encoder to replace.
        control: zeroed, shuffled or random.
        interactions: the interactions of all rows, in order.
        ratings: all rows.
        seed: seed of the shuffled rows and of the random vectors.
    """

    other_row: Tensor  # [R]
    user_vectors: Tensor  # [users, c]
    item_vectors: Tensor  # [items, c]
    user_of_row: Tensor  # [R]
    item_of_row: Tensor  # [R]

    def __init__(
        self, encoder: FrozenEncoder, control: str, interactions: Interaction, ratings: Ratings, seed: int
    ) -> None:
        super().__init__()
        self.encoder, self.name, self.control, self._interactions = encoder, encoder.name, control, interactions
        draw = np.random.default_rng(seed)
        self.memory_size, self.side_size = encoder.memory_size, encoder.side_size
        self.register_buffer("other_row", torch.from_numpy(_rows_of_other_users(ratings, draw)))
        c = (encoder.memory_size - encoder.evidence.shape[1]) // 2
        sides = (
            ("user", ratings.user, len(ratings.user_tokens)),
            ("item", ratings.item, len(ratings.item_tokens)),
        )
        for side, of_row, size in sides:
            vectors = draw.standard_normal((size, c), dtype=np.float32)
            self.register_buffer(f"{side}_vectors", torch.from_numpy(vectors))
            self.register_buffer(f"{side}_of_row", torch.from_numpy(np.asarray(of_row, dtype=np.int64)))

    def train(self, mode: bool = True) -> ControlledEncoder:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, interaction: Interaction) -> CFVectors:
        """Return e_u [N, c], e_i [N, c] and evidence [N, m] of N rows, as the encoder does."""
        row = interaction[ROW]
        if self.control == "shuffled":
            vectors: CFVectors = self.encoder(self._interactions[self.other_row[row].cpu()].to(row.device))
            return vectors
        e_u, e_i, evidence = map(torch.zeros_like, self.encoder(interaction))
        if self.control == "random":
            e_u, e_i = self.user_vectors[self.user_of_row[row]], self.item_vectors[self.item_of_row[row]]
        return e_u, e_i, evidence


#: Both return e_u [N, c], e_i [N, c] and evidence [N, m].
CFEncoder = FrozenEncoder | ControlledEncoder


def _rows_of_other_users(ratings: Ratings, draw: np.random.Generator) -> NDArray[np.int64]:
    """Return for each row [R] a random row of the same split, of another user if there is one."""
    other_row = np.arange(len(ratings))
    for split in SPLITS:
        rows = ratings.rows(split)
        others = draw.permutation(rows)
        for _ in range(10):  # each round leaves fewer rows with a row of their own user
            same_user = ratings.user[others] == ratings.user[rows]
            others[same_user] = draw.choice(rows, int(same_user.sum()))
        other_row[rows] = others
    return other_row
