"""ICL: the frozen LLM reads the text prompt; nothing is trained."""

from __future__ import annotations

from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig


class ICL(GeneralRecommender):
    """The answer of the unchanged LLM.

    Attributes:
        reads_base_llm: nothing changes the LLM, so prompts that share a history share its reading.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    reads_base_llm = True

    def __init__(self, config: CoraConfig, dataset: Dataset, llm: FrozenLLM, prompts: RowPrompts) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.llm, self.prompts = llm, prompts
        self.trained = nn.ModuleList()  # its checkpoints are empty

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        rows = interaction[ROW].tolist()
        return self.llm.score(self.prompts.of(rows), Conditioning(starts=self.prompts.questions(rows)))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
