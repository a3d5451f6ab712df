"""HistoryFeatures: a logistic regression on nine hand-made numbers, which a table of LLMs should have to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from recbole_cora.cf.pair_features import averages, colikes, counts, overlap, taste
from recbole_cora.data.recbole_dataset import ROW

_WHOLE_HISTORY = 10**6


class HistoryFeatures(GeneralRecommender):
    """Means of user and item, counts, how the item's likers and words relate to the history, by scikit-learn.

    The regression is solved, not trained by steps; features of train rows have not seen their labels (`row_features`).
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    scores_are_logits = True

    features: Tensor
    coefficients: Tensor
    intercept: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        ratings, last = dataset.ratings, config["history_items"]
        columns = [
            averages(ratings, config["folds"], config["seed"]),
            counts(ratings),
            colikes(ratings, last),
            colikes(ratings, _WHOLE_HISTORY),
            overlap(ratings, last),
            taste(ratings, config["folds"], config["seed"]),
        ]
        features = np.column_stack(columns).astype(np.float64)
        rows = dataset.inter_feat[ROW].numpy()
        centre, spread = features[rows].mean(axis=0), np.maximum(features[rows].std(axis=0), 1e-9)
        features = (features - centre) / spread
        solved = LogisticRegression(C=config["strength"], max_iter=1000)
        solved.fit(features[rows], dataset.inter_feat[self.LABEL].numpy())
        self.register_buffer("features", torch.from_numpy(features), persistent=False)
        self.register_buffer("coefficients", torch.from_numpy(solved.coef_[0]))
        self.register_buffer("intercept", torch.from_numpy(solved.intercept_))

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        return self.features[interaction[ROW]] @ self.coefficients + self.intercept

    def calculate_loss(self, interaction: Any) -> Tensor:
        logits, label = self.predict(interaction), interaction[self.LABEL].double()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
