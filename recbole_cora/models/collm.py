"""CoLLM (arXiv 2310.19488): the frozen CF embeddings of user and item, mapped to tokens of the prompt.

Stage 1 is TALLRec: a LoRA on the text prompt. Stage 2 freezes that LoRA and trains the mapping alone.

In the public code stage 2 can end below stage 1 (its issue 23), because the first outputs of the mapping are far from
any token embedding and drown out the text. Here the mapping starts at exactly the mean token embedding: its last layer
is zero, and its output is scaled by the spread of the token embeddings. Stage 2 therefore starts where stage 1 ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.cf.controls import CFEncoder
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig


class CoLLM(GeneralRecommender):
    """A LoRA on text prompts that contain one token for e_u and one for e_i.

    One MLP, (c + m) -> 10 (c + m) -> d, makes each token from the CF embedding and the evidence.

    Args:
        prompts: the rows' prompts, with a slot for each token.
        lora: returns a LoRA with the trained weights of stage 1.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (1, 1)  # tokens of the user, and of the item

    mean: Tensor  # [d]

    def __init__(
        self, config: CoraConfig, dataset: Dataset, llm: FrozenLLM, prompts: RowPrompts, encoder: CFEncoder,
        lora: Callable[[], SharedLoRA],
    ) -> None:  # fmt: skip
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts, self.encoder = llm, prompts, encoder
        self.lora = lora()
        self.lora.freeze()
        mean, self.spread = llm.embedding_statistics()
        self.register_buffer("mean", mean, persistent=False)
        size = encoder.side_size  # c + m
        self.mapping = nn.Sequential(nn.Linear(size, 10 * size), nn.ReLU(), nn.Linear(10 * size, llm.hidden_size))
        for parameter in self.mapping[2].parameters():
            nn.init.zeros_(parameter)
        self.cf_dropout = nn.Dropout(config["cf_dropout"])
        self.trained = self.mapping

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        e_u, e_i, evidence = self.encoder(interaction)  # [N, c], [N, c], [N, m]
        sides = [torch.cat([self.cf_dropout(e), evidence], dim=-1) for e in (e_u, e_i)]  # [N, c + m] each
        vectors = self.mean + self.spread * self.mapping(torch.stack(sides, dim=1))  # [N, 2, d]
        rows = interaction[ROW].tolist()
        slots = SlotVectors(self.prompts.slots(rows), vectors)
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=slots, lora=self.lora))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
