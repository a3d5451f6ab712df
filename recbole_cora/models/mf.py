"""MF: RecBole's BPR trained by binary cross-entropy on labelled rows, optionally with user and item biases."""

from __future__ import annotations

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.settings.recbole_config import CoraConfig


class MF(BPR):
    """Matrix factorisation on labels: logit = e_u . e_i (+ b_u + b_i + b).

    RecBole's BPR treats every row as a positive, even a disliked one; here the label is the target.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: CoraConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.bias = config["bias"]
        if self.bias:
            self.user_bias = nn.Embedding(self.n_users, 1)
            self.item_bias = nn.Embedding(self.n_items, 1)
            self.global_bias = nn.Parameter(torch.zeros(1))
            nn.init.zeros_(self.user_bias.weight)
            nn.init.zeros_(self.item_bias.weight)
        if config["init_std"]:
            nn.init.normal_(self.user_embedding.weight, std=config["init_std"])
            nn.init.normal_(self.item_embedding.weight, std=config["init_std"])

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        logit = super().predict(interaction)
        if self.bias:
            user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
            logit = logit + self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1) + self.global_bias
        return logit

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
