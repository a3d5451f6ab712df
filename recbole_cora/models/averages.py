"""Averages: the mean label of the item plus that of the user, the row that no table of recommenders should lack."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor


class Averages(GeneralRecommender):
    """score(u, i) = mean_u + mean_i - mean, each of u and i smoothed by `pseudo_rows` rows of the mean.

    Nothing is learned by steps: the means are there from the start.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    scores_are_logits = False

    user_mean: Tensor
    item_mean: Tensor
    mean: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        rows = dataset.inter_feat
        label = rows[self.LABEL].double()
        self.register_buffer("mean", label.mean())
        for name, codes, size in (
            ("user_mean", rows[self.USER_ID], self.n_users),
            ("item_mean", rows[self.ITEM_ID], self.n_items),
        ):
            liked = torch.bincount(codes, label, minlength=size)
            count = torch.bincount(codes, minlength=size)
            pseudo = config["pseudo_rows"]
            self.register_buffer(name, (liked + pseudo * label.mean()) / (count + pseudo))

    def predict(self, interaction: Any) -> Tensor:
        """Scores [N]: near a probability, and ordered as one."""
        return self.user_mean[interaction[self.USER_ID]] + self.item_mean[interaction[self.ITEM_ID]] - self.mean

    def calculate_loss(self, interaction: Any) -> Tensor:
        return (self.predict(interaction) - interaction[self.LABEL]).square().mean()
