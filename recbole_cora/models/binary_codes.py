"""BinaryCodes: frozen CF embeddings as 32 bits each, BinLLM's text-like encoding."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.cf.controls import CFEncoder


class BinaryCodes(GeneralRecommender):
    """b = sign(tanh(W e + w)) in {-1, 1}^bits of each side; logit = a (b_u . b_i) / bits + bias.

    The gradient passes the sign as if it were not there.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: Any, dataset: Any, encoder: CFEncoder) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.encoder, self.bits = encoder, config["bits"]
        self.of_user, self.of_item = (nn.Linear(encoder.side_size, self.bits) for _ in range(2))
        self.scale = nn.Linear(1, 1)
        nn.init.constant_(self.scale.weight, 4.0)
        self.trained = nn.ModuleDict({"user": self.of_user, "item": self.of_item, "scale": self.scale})

    def codes(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Of users and of items [N, bits], each -1 or 1."""
        e_u, e_i, evidence = self.encoder(interaction)
        sides = ((self.of_user, e_u), (self.of_item, e_i))
        b_u, b_i = (_sign(torch.tanh(linear(torch.cat([e, evidence], dim=-1)))) for linear, e in sides)
        return b_u, b_i

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        b_u, b_i = self.codes(interaction)
        logits: Tensor = self.scale((b_u * b_i).mean(dim=1, keepdim=True)).squeeze(1)
        return logits

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])


def _sign(x: Tensor) -> Tensor:
    """-1 or 1, with the gradient of x (straight-through)."""
    hard = torch.where(x >= 0, 1.0, -1.0)
    return x + (hard - x).detach()


def code_text(code: Tensor, form: str) -> str:
    """A code [bits] as text: its bits, or these by eights as numbers, `172.16.254.1`."""
    bits = "".join("1" if bit > 0 else "0" for bit in code.tolist())
    return bits if form == "bits" else ".".join(str(int(bits[n : n + 8], 2)) for n in range(0, len(bits), 8))
