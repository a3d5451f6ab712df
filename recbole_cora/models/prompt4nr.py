"""Prompt4NR (arXiv 2304.05263), in CoLLM's version: learned soft tokens in the prompt, and a LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.prompts.rows import RowPrompts

TOKENS = 3


class Prompt4NR(GeneralRecommender):
    """Three soft tokens after the history and three after the title, the same for every pair.

    They are learned in the measure of token embeddings: in their spread, around their mean.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (TOKENS, TOKENS)  # of the user, of the item

    mean: Tensor

    def __init__(
        self, config: Any, dataset: Any, llm: FrozenLLM, prompts: RowPrompts, lora: Callable[[], SharedLoRA]
    ) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        self.lora = lora()
        mean, self.spread = llm.embedding_statistics()
        self.register_buffer("mean", mean, persistent=False)
        self.soft = nn.Embedding(2 * TOKENS, llm.hidden_size)
        nn.init.normal_(self.soft.weight, std=0.1)
        self.trained = nn.ModuleDict({"lora": self.lora, "soft": self.soft})

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        rows = interaction[ROW].tolist()
        vectors = (self.mean + self.spread * self.soft.weight).expand(len(rows), -1, -1)  # [N, 6, d]
        slots = SlotVectors(self.prompts.slots(rows), vectors)
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=slots, lora=self.lora))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
