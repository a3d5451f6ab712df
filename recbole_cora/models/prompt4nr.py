"""Prompt4NR (arXiv 2304.05263), in CoLLM's version: learned soft tokens in the prompt, and a LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
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
from recbole_cora.settings.recbole_config import CoraConfig

TOKENS = 3  # after the history, and again after the title


class Prompt4NR(GeneralRecommender):
    """Three soft tokens after the history and three after the title, the same for every pair.

    A soft token is the mean token embedding plus a learned offset in units of the spread of token embeddings.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (TOKENS, TOKENS)  # tokens of the user, and of the item

    mean: Tensor  # [d]

    def __init__(
        self, config: CoraConfig, dataset: Dataset, llm: FrozenLLM, prompts: RowPrompts, lora: Callable[[], SharedLoRA]
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

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        rows = interaction[ROW].tolist()
        vectors = (self.mean + self.spread * self.soft.weight).expand(len(rows), -1, -1)  # [N, 6, d]
        slots = SlotVectors(self.prompts.slots(rows), vectors)
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=slots, lora=self.lora))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
