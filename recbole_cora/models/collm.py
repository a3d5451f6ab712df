"""CoLLM (arXiv 2310.19488): the frozen CF embeddings of user and item, mapped to tokens, stand in the prompt.

Stage 1 is TALLRec: a LoRA on the text prompt. Stage 2 freezes it and trains the mapping alone.

In the public code stage 2 can end below stage 1 (its issue 23). What the mapping answers at first is then far from any
token embedding, and drowns the text. Here it begins at the mean token embedding, exactly: the last layer is zero, and
what it adds is measured in the spread of token embeddings. So stage 2 sets out from where stage 1 ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
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


class CoLLM(GeneralRecommender):
    """Text, a LoRA, and one token each for e_u and e_i, both made by one MLP (c -> 10 c -> d).

    Args:
        lora: makes stage 1's trained LoRA.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    slots: ClassVar[tuple[int, int]] = (1, 1)  # of the user, of the item

    mean: Tensor

    def __init__(
        self, config: Any, dataset: Any, llm: FrozenLLM, prompts: RowPrompts, encoder: CFEncoder,
        lora: Callable[[], SharedLoRA],
    ) -> None:  # fmt: skip
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts, self.encoder = llm, prompts, encoder
        self.lora = lora()
        self.lora.freeze()
        mean, self.spread = llm.embedding_statistics()
        self.register_buffer("mean", mean, persistent=False)
        c = encoder.side_size
        self.mapping = nn.Sequential(nn.Linear(c, 10 * c), nn.ReLU(), nn.Linear(10 * c, llm.hidden_size))
        for parameter in self.mapping[2].parameters():
            nn.init.zeros_(parameter)
        self.cf_dropout = nn.Dropout(config["cf_dropout"])
        self.trained = self.mapping

    def predict(self, interaction: Any) -> Tensor:
        """Logits [N]."""
        e_u, e_i, evidence = self.encoder(interaction)  # [N, c], [N, c], [N, m]
        sides = [torch.cat([self.cf_dropout(e), evidence], dim=-1) for e in (e_u, e_i)]
        vectors = self.mean + self.spread * self.mapping(torch.stack(sides, dim=1))  # [N, 2, d]
        rows = interaction[ROW].tolist()
        slots = SlotVectors(self.prompts.slots(rows), vectors)
        return self.llm.score(self.prompts.of(rows), Conditioning(slots=slots, lora=self.lora))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
