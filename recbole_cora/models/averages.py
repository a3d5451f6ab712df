"""Averages: the mean label of the item plus that of the user, the row that no table of recommenders should lack."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor

#: A score is taken for a probability between these; what is beyond counts a little, so that the order stays.
_LEAST, _MOST, _BEYOND = 0.01, 0.99, 0.009


class Averages(GeneralRecommender):
    """s(u, i) = mean_u + mean_i - mean, each of u and i smoothed by `pseudo_rows` rows of the mean.

    s lies in [-1, 2], so it is no probability, and one liked row with s below 0 would outweigh a thousand others in
    LogLoss. The score is

        p = c + 0.009 (s - c),  c = s clipped to [0.01, 0.99]

    which is s itself within these bounds, lies in (0.0009, 0.9991), and rises with s everywhere: AUC and UAUC are those
    of s.

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
        """Probabilities [N]."""
        score = self.user_mean[interaction[self.USER_ID]] + self.item_mean[interaction[self.ITEM_ID]] - self.mean
        within = score.clamp(_LEAST, _MOST)
        return within + _BEYOND * (score - within)

    def calculate_loss(self, interaction: Any) -> Tensor:
        return (self.predict(interaction) - interaction[self.LABEL]).square().mean()
