"""TALLRec (arXiv 2305.00447): the LLM fine-tuned on the text prompt by one LoRA, the same for every pair."""

from __future__ import annotations

from collections.abc import Callable

from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig


class TALLRec(GeneralRecommender):
    """A LoRA on the text prompts. CoLLM and BinLLM start from its trained LoRA.

    Args:
        lora: returns a new LoRA.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(
        self, config: CoraConfig, dataset: Dataset, llm: FrozenLLM, prompts: RowPrompts, lora: Callable[[], SharedLoRA]
    ) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        self.lora = lora()
        self.trained = self.lora

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        return self.llm.score(self.prompts.of(interaction[ROW].tolist()), Conditioning(lora=self.lora))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
