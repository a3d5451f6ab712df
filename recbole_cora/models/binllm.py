"""BinLLM (arXiv 2406.03210): CF embeddings as short binary codes, written into the prompt as text.

It has three stages: the codes (`binary_codes.py`), TALLRec's LoRA on the text prompt, and this model, which trains that
LoRA further with the codes in the prompt.
"""

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


class BinLLM(GeneralRecommender):
    """A LoRA on text prompts that contain the codes.

    Args:
        prompts: the rows' prompts, with the codes in them.
        lora: returns a LoRA with TALLRec's trained weights.
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
