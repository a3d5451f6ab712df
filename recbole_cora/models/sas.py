"""SAS: RecBole's SASRec trained by binary cross-entropy on the labelled rows, after the liked history."""

from __future__ import annotations

from typing import Any

from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class SAS(SASRec):
    """SASRec on labels: logit = (state after the liked history) . e_i."""

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
