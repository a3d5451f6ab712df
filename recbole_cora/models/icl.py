"""ICL: the frozen LLM and the text prompt, nothing trained."""

from __future__ import annotations

from typing import Any

from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.prompts.rows import RowPrompts


class ICL(GeneralRecommender):
    """The LLM's own answer, learned from text alone."""

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: Any, dataset: Any, llm: FrozenLLM, prompts: RowPrompts) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        self.trained = nn.ModuleList()  # nothing

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        return self.llm.score(self.prompts.of(interaction[ROW].tolist()))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
