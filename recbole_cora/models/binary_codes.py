"""BinaryCodes: a short binary code for each frozen CF embedding (32 bits by default), BinLLM's text-like encoding."""

from __future__ import annotations

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.cf.controls import CFEncoder
from recbole_cora.settings.recbole_config import CoraConfig


class BinaryCodes(GeneralRecommender):
    """b = sign(tanh(W e + w)) in {-1, 1}^bits for user and item; logit = a (b_u . b_i) / bits + bias.

    e is the CF embedding followed by the evidence. The gradient ignores the sign (straight-through).
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: CoraConfig, dataset: Dataset, encoder: CFEncoder) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.encoder, self.bits = encoder, config["bits"]
        self.user_layer, self.item_layer = (nn.Linear(encoder.side_size, self.bits) for _ in range(2))
        self.scale = nn.Linear(1, 1)
        nn.init.constant_(self.scale.weight, 4.0)
        self.trained = nn.ModuleDict({"user": self.user_layer, "item": self.item_layer, "scale": self.scale})

    def codes(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Return b_u [N, bits] and b_i [N, bits], each entry -1 or 1."""
        e_u, e_i, evidence = self.encoder(interaction)  # [N, c], [N, c], [N, m]
        sides = ((self.user_layer, e_u), (self.item_layer, e_i))
        b_u, b_i = (_sign(torch.tanh(layer(torch.cat([e, evidence], dim=-1)))) for layer, e in sides)
        return b_u, b_i

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        b_u, b_i = self.codes(interaction)
        logits: Tensor = self.scale((b_u * b_i).mean(dim=1, keepdim=True)).squeeze(1)
        return logits

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])


def _sign(x: Tensor) -> Tensor:
    """Return -1 or 1, with the gradient of x (straight-through)."""
    sign = torch.where(x >= 0, 1.0, -1.0)
    return x + (sign - x).detach()


def code_text(code: Tensor, form: str) -> str:
    """Return a code [bits] as text: its bits or, in the form `dotted`, one number per 8 bits, as in `172.16.254.1`."""
    bits = "".join("1" if bit > 0 else "0" for bit in code.tolist())
    return bits if form == "bits" else ".".join(str(int(bits[n : n + 8], 2)) for n in range(0, len(bits), 8))
