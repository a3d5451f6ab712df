"""Frozen CF encoders: eq. (1), `e_u, e_i = f_psi(u, i)`.

To use another RecBole model as an encoder, write one function from (model, interaction) to its two embeddings and add
it to PAIR_EMBEDDINGS; `--cf_encoder=` takes the model's name.

Legend: N rows of a batch, R rows in all, c size of e_u and of e_i, m numbers of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor, nn

from recbole_cora.data.recbole_dataset import ROW

#: (model, interaction of N rows) -> e_u [N, c], e_i [N, c].
PairEmbedding = Callable[[AbstractRecommender, Interaction], tuple[Tensor, Tensor]]
#: e_u [N, c], e_i [N, c], evidence [N, m].
CFVectors = tuple[Tensor, Tensor, Tensor]


def _factors(model: AbstractRecommender, interaction: Interaction) -> tuple[Tensor, Tensor]:
    user, item = interaction[model.USER_ID], interaction[model.ITEM_ID]
    e_u, e_i = model.get_user_embedding(user), model.get_item_embedding(item)
    if getattr(model, "bias", False):  # the bias of each side is one more coordinate of its embedding
        e_u = torch.cat([e_u, model.user_bias(user)], dim=-1)
        e_i = torch.cat([e_i, model.item_bias(item)], dim=-1)
    return e_u, e_i


def _propagated(model: AbstractRecommender, interaction: Interaction) -> tuple[Tensor, Tensor]:
    users, items = model.propagated()
    return users[interaction[model.USER_ID]], items[interaction[model.ITEM_ID]]


def _sequence_state(model: AbstractRecommender, interaction: Interaction) -> tuple[Tensor, Tensor]:
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
    """A trained CF model, frozen, that returns the CF memory of a row: e_u, e_i and evidence.

    Evidence is a few numbers about the pair that neither embedding shows by itself, such as the model's own score or
    co-liking with the history (see `evidence.py`). Without evidence the memory is the paper's. Cross-attention to a
    single memory token is a linear map. A generator without evidence would therefore have to learn even e_u . e_i, all
    that an inner-product model knows about a pair, from scratch.

    CF embeddings come in any scale (SASRec's are near 1, MF's near 0.1). Each part of the memory is therefore centred
    and divided by its root mean square over the train rows, so that all parts weigh the same. Within e_u or e_i,
    coordinates keep their proportions.

    The parts of the memory are e_u, e_i and each of the m numbers of evidence.

    Args:
        model: a trained RecBole model, which is frozen here.
        name: its key in PAIR_EMBEDDINGS.
        evidence: the evidence of all rows [R, m].
        batches: the train interactions, over which the parts are measured.
    """

    evidence: Tensor  # [R, m]
    mean: Tensor  # [2c + m]
    scale: Tensor  # [2c + m]

    def __init__(self, model: AbstractRecommender, name: str, evidence: Tensor, batches: Iterable[Interaction]) -> None:
        super().__init__()
        self.name, self._embed = name, PAIR_EMBEDDINGS[name]
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("evidence", evidence)
        with torch.no_grad():
            parts_of_batches = [self._parts(batch) for batch in batches]
        parts = [torch.cat(part).double() for part in zip(*parts_of_batches, strict=True)]  # [train rows, size] each
        means = [part.mean(dim=0) for part in parts]  # [size] each
        # Every part gets the same length, sqrt(all coordinates / parts), so coordinates are near 1 on average.
        length = (sum(part.shape[1] for part in parts) / len(parts)) ** 0.5
        scales = [
            (length / (part - mean).norm(dim=1).square().mean().sqrt().clamp_min(1e-6)).expand(part.shape[1])
            for part, mean in zip(parts, means, strict=True)
        ]
        self.register_buffer("mean", torch.cat(means).float())
        self.register_buffer("scale", torch.cat(scales).float())

    @property
    def memory_size(self) -> int:
        """Size of the memory: 2c + m."""
        return self.mean.numel()

    @property
    def side_size(self) -> int:
        """Size of e_u, or of e_i, together with the evidence: c + m."""
        return (self.memory_size + self.evidence.shape[1]) // 2

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode: the model is frozen, and so is its dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, interaction: Interaction) -> CFVectors:
        """Return e_u [N, c], e_i [N, c] and evidence [N, m] of N rows."""
        memory = (torch.cat(self._parts(interaction), dim=-1) - self.mean) * self.scale  # [N, 2c + m]
        pair, evidence = memory.tensor_split([self.memory_size - self.evidence.shape[1]], dim=-1)  # [N, 2c], [N, m]
        e_u, e_i = pair.chunk(2, dim=-1)
        return e_u, e_i, evidence

    def _parts(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """Return the parts of the memory before scaling: e_u [N, c], e_i [N, c], and m numbers [N, 1]."""
        evidence = self.evidence[interaction[ROW]]
        return (*self._embed(self.model, interaction), *evidence.split(1, dim=-1))
