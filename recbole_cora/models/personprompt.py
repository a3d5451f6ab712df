"""PersonPrompt (PEPLER's way, arXiv 2202.07371): a learned vector of each user and each item stands in the prompt."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.prompts.rows import RowPrompts


class PersonPrompt(GeneralRecommender):
    """New tokens `<user u>` and `<item i>`; the LLM itself stays frozen.

    The vectors begin at the mean token embedding, plus what is learned: an unseen user or item is an average token.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (1, 1)  # of the user, of the item

    mean: Tensor

    def __init__(self, config: Any, dataset: Any, llm: FrozenLLM, prompts: RowPrompts) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        mean, self.spread = llm.embedding_statistics()
        self.register_buffer("mean", mean, persistent=False)
        self.users, self.items = (nn.Embedding(size, llm.hidden_size) for size in (self.n_users, self.n_items))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=config["init_std"])
        self.trained = nn.ModuleDict({"of_user": self.users, "of_item": self.items})

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        rows = interaction[ROW].tolist()
        own = [self.users(interaction[self.USER_ID]), self.items(interaction[self.ITEM_ID])]
        vectors = self.mean + self.spread * torch.stack(own, dim=1)  # [N, 2, d]
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=SlotVectors(self.prompts.slots(rows), vectors)))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
