"""PersonPrompt (after PEPLER, arXiv 2202.07371): the prompt contains a learned vector for the user and for the item."""

from __future__ import annotations

from typing import ClassVar

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig


class PersonPrompt(GeneralRecommender):
    """A new token for each user and each item; the LLM itself stays frozen.

    A vector is the mean token embedding plus a learned offset, so an unseen user or item is close to an average token.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (1, 1)  # tokens of the user, and of the item

    mean: Tensor  # [d]

    def __init__(self, config: CoraConfig, dataset: Dataset, llm: FrozenLLM, prompts: RowPrompts) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        mean, self.spread = llm.embedding_statistics()
        self.register_buffer("mean", mean, persistent=False)
        self.users, self.items = (nn.Embedding(size, llm.hidden_size) for size in (self.n_users, self.n_items))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=config["init_std"])
        self.trained = nn.ModuleDict({"of_user": self.users, "of_item": self.items})

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        rows = interaction[ROW].tolist()
        offsets = [self.users(interaction[self.USER_ID]), self.items(interaction[self.ITEM_ID])]  # [N, d] each
        vectors = self.mean + self.spread * torch.stack(offsets, dim=1)  # [N, 2, d]
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=SlotVectors(self.prompts.slots(rows), vectors)))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
