"""CoRA: the frozen LLM reads the text prompt with weights that a generator makes for this user and item.

ratings row -> prompt (text) ---------------------------> frozen LLM -> Yes-minus-No logit
          `-> frozen CF encoder -> e_u, e_i -> generator -> dW(u, i) ----^
"""

from __future__ import annotations

import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.cf.controls import CFEncoder
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.generator import CollaborativeWeightsGenerator
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig


class CoRA(GeneralRecommender):
    """The paper's model. Only `generator` is trained; `encoder` and `llm` are frozen.

    Args:
        config: holds the generator's hyper-parameters under the paper's names (see `properties/model/CoRA.yaml`).
        dataset: the train split.
        encoder: the frozen CF model f_psi.
        llm: the frozen LLM.
        prompts: the rows' prompts in this LLM's tokens. If they say where each question begins, the weights act on the
            questions only.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(
        self, config: CoraConfig, dataset: Dataset, encoder: CFEncoder, llm: FrozenLLM, prompts: RowPrompts
    ) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.encoder, self.llm, self.prompts = encoder, llm, prompts
        self.targets = weight_targets(llm.model, config["weight_types"], config["llm_modules"])
        self.cf_dropout = nn.Dropout(config["cf_dropout"])
        self.generator = CollaborativeWeightsGenerator(
            memory_size=encoder.memory_size,
            targets=self.targets,
            rank=config["rank"],
            queries=config["queries"],
            blocks=config["blocks"],
            heads=config["heads"],
            hidden=config["hidden"],
            feed_forward=config["feed_forward"],
            dropout=config["generator_dropout"],
            alpha_over_rank=config["alpha_over_rank"],
            delta_dropout=config["delta_dropout"],
        )
        self.trained = self.generator

    def weights(self, interaction: Interaction) -> PairWeights:
        """Return the collaborative weights of N pairs; eq. (1), (4)."""
        e_u, e_i, evidence = self.encoder(interaction)  # (1)  [N, c], [N, c], [N, m]
        memory = torch.cat([self.cf_dropout(torch.cat([e_u, e_i], dim=-1)), evidence], dim=-1)  # [N, 2c + m]
        weights: PairWeights = self.generator(memory.unsqueeze(1))  # (4)  A(u,i) and L_B, from one memory token
        return weights

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N] of "the user would enjoy the item"; eq. (1), (4)-(6)."""
        rows = interaction[ROW].tolist()
        conditioning = Conditioning(self.targets, self.weights(interaction), self.prompts.questions(rows))
        return self.llm.score(self.prompts.of(rows), conditioning)  # (5), (6)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the binary cross-entropy on the labels; eq. (7)."""
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])

    @torch.no_grad()
    def predict_text_only(self, interaction: Interaction) -> Tensor:
        """Return logits [N] of the frozen LLM on the same prompts, without generated weights."""
        rows = interaction[ROW].tolist()
        return self.llm.score(self.prompts.of(rows), Conditioning(starts=self.prompts.questions(rows)))
