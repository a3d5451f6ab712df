"""TALLRec (arXiv 2305.00447): the LLM fine-tuned on the text prompt by one LoRA, the same for every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.prompts.rows import RowPrompts


class TALLRec(GeneralRecommender):
    """Text and a LoRA. Its trained LoRA is where CoLLM and BinLLM begin."""

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(
        self, config: Any, dataset: Any, llm: FrozenLLM, prompts: RowPrompts, lora: Callable[[], SharedLoRA]
    ) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        self.lora = lora()
        self.trained = self.lora

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        return self.llm.score(self.prompts.of(interaction[ROW].tolist()), Conditioning(lora=self.lora))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
