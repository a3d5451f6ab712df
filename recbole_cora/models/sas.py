"""SAS: RecBole's SASRec trained by binary cross-entropy on labelled rows; it reads each row's liked history."""

from __future__ import annotations

from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.settings.recbole_config import CoraConfig


class SAS(SASRec):
    """SASRec on labels: logit = (state after the liked history) . e_i."""

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: CoraConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
