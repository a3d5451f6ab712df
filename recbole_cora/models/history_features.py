"""HistoryFeatures: a logistic regression on nine hand-made features, a baseline that LLMs should have to beat."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from recbole_cora.cf.pair_features import averages, colikes, counts, overlap, taste
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.settings.recbole_config import CoraConfig

_WHOLE_HISTORY = 10**6


class HistoryFeatures(GeneralRecommender):
    """A logistic regression, by scikit-learn, on the features of `cf.pair_features`.

    The features are mean labels of user and item, counts, and how the item's likers and words relate to the history.
    The features of a train row do not depend on its label. The regression is solved when the model is built, not
    trained step by step.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE
    scores_are_logits = True

    features: Tensor  # [R, 9]
    coefficients: Tensor  # [9]
    intercept: Tensor  # [1]

    def __init__(self, config: CoraConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        ratings, history_items = dataset.ratings, config["history_items"]
        columns = [
            averages(ratings, config["folds"], config["seed"]),
            counts(ratings),
            colikes(ratings, history_items),
            colikes(ratings, _WHOLE_HISTORY),
            overlap(ratings, history_items),
            taste(ratings, config["folds"], config["seed"]),
        ]
        features = np.column_stack(columns).astype(np.float64)
        train_rows = dataset.inter_feat[ROW].numpy()
        mean, spread = features[train_rows].mean(axis=0), np.maximum(features[train_rows].std(axis=0), 1e-9)
        features = (features - mean) / spread
        regression = LogisticRegression(C=config["strength"], max_iter=1000)
        regression.fit(features[train_rows], dataset.inter_feat[self.LABEL].numpy())
        self.register_buffer("features", torch.from_numpy(features), persistent=False)
        self.register_buffer("coefficients", torch.from_numpy(regression.coef_[0]))
        self.register_buffer("intercept", torch.from_numpy(regression.intercept_))

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        return self.features[interaction[ROW]] @ self.coefficients + self.intercept

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        logits, label = self.predict(interaction), interaction[self.LABEL].double()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
