"""Averages: the mean label of the item plus that of the user, a baseline for every table of recommenders."""

from __future__ import annotations

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor

from recbole_cora.settings.recbole_config import CoraConfig

#: A score between the two bounds is used as a probability. Beyond them a small slope keeps the order of scores.
_LEAST, _MOST, _SLOPE_BEYOND = 0.01, 0.99, 0.009


class Averages(GeneralRecommender):
    """s(u, i) = mean_u + mean_i - mean, where mean_u and mean_i are smoothed by `pseudo_rows` rows of the mean.

    s lies in [-1, 2], so it is not a probability: one liked row with s below 0 would outweigh a thousand others in
    LogLoss. The score is therefore

        p = c + 0.009 (s - c),  c = s clipped to [0.01, 0.99]

    It equals s within these bounds, lies in (0.0009, 0.9991), and always increases with s, so AUC and UAUC are those
    of s.

    Nothing is trained: the means are computed when the model is built.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    scores_are_logits = False

    user_mean: Tensor  # [n_users]
    item_mean: Tensor  # [n_items]
    mean: Tensor  # []

    def __init__(self, config: CoraConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        train_rows = dataset.inter_feat
        label = train_rows[self.LABEL].double()
        pseudo_rows = config["pseudo_rows"]
        self.register_buffer("mean", label.mean())
        for name, ids, size in (
            ("user_mean", train_rows[self.USER_ID], self.n_users),
            ("item_mean", train_rows[self.ITEM_ID], self.n_items),
        ):
            likes = torch.bincount(ids, label, minlength=size)
            count = torch.bincount(ids, minlength=size)
            self.register_buffer(name, (likes + pseudo_rows * label.mean()) / (count + pseudo_rows))

    def predict(self, interaction: Interaction) -> Tensor:
        """Return probabilities [N]."""
        score = self.user_mean[interaction[self.USER_ID]] + self.item_mean[interaction[self.ITEM_ID]] - self.mean
        clipped = score.clamp(_LEAST, _MOST)
        return clipped + _SLOPE_BEYOND * (score - clipped)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return (self.predict(interaction) - interaction[self.LABEL]).square().mean()
