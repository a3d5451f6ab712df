"""BinLLM (arXiv 2406.03210): CF embeddings as short binary codes, written into the prompt as text.

Three stages: the codes (`binary_codes.py`), TALLRec's LoRA on the text prompt, and here that LoRA trained on, with the
codes in the prompt.
"""

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


class BinLLM(GeneralRecommender):
    """Text with codes, and a LoRA.

    Args:
        prompts: with the codes in them.
        lora: makes TALLRec's trained LoRA.
    """

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
