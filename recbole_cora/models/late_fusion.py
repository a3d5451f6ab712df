"""LateFusion: a logistic regression of two scores, the frozen LLM's and the CF encoder's.

ratings row -> prompt (text) -> frozen LLM -> Yes-minus-No logit --.
          `-> frozen CF encoder -> score of the pair --------------+-> regression -> logit

The LLM and CF meet only here, after each has given its score. A method that puts CF into the LLM should beat this.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.cf.controls import CFEncoder
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.errors import DataError, LLMError
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.progress import Progress
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.settings.recbole_config import CoraConfig

log = logging.getLogger()

#: An input whose standard deviation over the fitted rows is smaller is constant but for rounding.
_CONSTANT = 1e-6
#: Kinds of evidence that are several numbers; every other kind is one number, called by its own name.
_NUMBERS = {"averages": ("user_average", "item_average")}


class LateFusion(GeneralRecommender):
    """logit = b + w_llm z(LLM's score) + sum_k w_k z(evidence_k), where z standardises.

    By default the evidence is `score` alone, the encoder's score of the pair. With more evidence (`cf_evidence`), the
    regression has more inputs: the same numbers that CoRA reads with that setting. Without any, it calibrates the LLM's
    score.

    The regression is solved, by scikit-learn, when the model is built: on `fusion_rows` train rows, and on scores that
    have not seen these rows' labels.

    - The encoder has learned the labels of the train rows, so its own scores of them would be trusted too much. Its
      evidence is out of fold on train rows (see `cf.evidence`), each by an encoder that was trained without the row.
      Such an encoder is slightly weaker than the one that scores valid and test rows: it has 1 / `cf_folds` fewer rows.
    - The LLM has trained on no label, so its score is out of fold by itself. This holds for the tiny LLM too, with one
      reservation: it was trained on the prompts of the liked train rows, each with an answer decided by a coin toss.
      Those answers say nothing about the labels, but it has read these prompts and not those of the disliked rows.

    Args:
        config: holds `fusion_rows` and `cf_evidence`.
        dataset: the train split.
        encoder: the frozen CF encoder with its evidence; the embeddings e_u and e_i are not used.
        llm: the frozen LLM.
        prompts: the rows' prompts in this LLM's tokens.

    Attributes:
        names: the inputs of the regression, in order.
        reads_base_llm: nothing changes the LLM, so prompts that share a history share its reading.

    Raises:
        DataError: the drawn train rows all have one label.
        LLMError: the LLM's score of a prompt is not finite.
    """

    input_type = InputType.POINTWISE
    scores_are_logits = True
    reads_base_llm = True

    def __init__(
        self, config: CoraConfig, dataset: Dataset, encoder: CFEncoder, llm: FrozenLLM, prompts: RowPrompts
    ) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.encoder, self.llm, self.prompts = encoder.to(config["device"]), llm, prompts
        evidence = [name for kind in config["cf_evidence"] for name in _NUMBERS.get(kind, (kind,))]
        self.names = ["llm", *evidence]
        self.trained = Regression(len(self.names))
        if not config["checkpoint"]:  # its regression will be loaded, so the LLM need not read the train rows
            self._fit(config, dataset)

    def _fit(self, config: CoraConfig, dataset: Dataset) -> None:
        """Solve the regression on `fusion_rows` train rows, drawn by the seed."""
        places = np.random.default_rng(config["seed"]).permutation(len(dataset))[: config["fusion_rows"]]
        rows = dataset.inter_feat[torch.from_numpy(np.sort(places))]
        label = rows[self.LABEL].numpy()
        if len(np.unique(label)) < 2:
            raise DataError(
                f"the {len(label)} train rows that LateFusion is fitted on all have the label {label[0]:g}; expected "
                "liked and disliked ones: raise --fusion_rows, or check --threshold"
            )
        inputs = []
        size = config["eval_batch_size"]
        remedy = "--fusion_rows= bounds it"
        with (
            torch.no_grad(),
            Progress("fit LateFusion", "row", len(rows), show=config.show_progress, remedy=remedy) as bar,
        ):
            for start in range(0, len(rows), size):
                inputs.append(self._inputs(rows[start : start + size].to(config["device"])).cpu())
                bar.update(len(inputs[-1]))
        x = torch.cat(inputs).numpy()  # [fusion_rows, 1 + m]
        if not np.isfinite(x[:, 0]).all():
            raise LLMError(
                f"the LLM's score of {(~np.isfinite(x[:, 0])).sum()} of {len(x)} prompts is not finite; use another "
                "--dtype, such as bfloat16 or float32"
            )
        self.trained.fit(x, label)
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in self._weights().items())
        log.info(f"LateFusion on {len(x):,} train rows: weights per standard deviation: {weights}")

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        logits: Tensor = self.trained(self._inputs(interaction))
        return logits

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        return binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL].double())

    @torch.no_grad()
    def predict_text_only(self, interaction: Interaction) -> Tensor:
        """Return logits [N] of the frozen LLM by itself."""
        rows = interaction[ROW].tolist()
        return self.llm.score(self.prompts.of(rows), Conditioning(starts=self.prompts.questions(rows)))

    def _inputs(self, interaction: Interaction) -> Tensor:
        """Return the LLM's score and the evidence of N rows: [N, 1 + m], float64."""
        evidence = self.encoder(interaction)[2]  # [N, m]
        return torch.cat([self.predict_text_only(interaction).unsqueeze(1), evidence], dim=1).double()

    def _weights(self) -> dict[str, float]:
        return dict(zip(self.names, self.trained.weights.tolist(), strict=True))

    def result_entries(self) -> dict[str, object]:
        """Return the entry `fusion` of `result.json`: how many train rows the regression saw, and its coefficients.

        `weights` and `intercept` are for standardised inputs: a weight is the change of the logit per standard
        deviation of its input.
        """
        regression = self.trained
        coefficients = {"weights": self._weights(), "intercept": float(regression.intercept)}
        return {"fusion": {"rows": int(regression.rows), **coefficients}}


class Regression(nn.Module):
    """logit = intercept + weights . (x - mean) / spread, for inputs x [N, size].

    All numbers are buffers: they are solved for, not trained by gradient steps, and a checkpoint holds them.
    """

    weights: Tensor  # [size]
    mean: Tensor  # [size]
    spread: Tensor  # [size]
    intercept: Tensor  # []
    rows: Tensor  # [], the number of rows of the fit

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, value in (("weights", 0.0), ("mean", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((size,), value, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def fit(self, x: NDArray[np.float64], label: NDArray[np.float32]) -> None:
        """Solve for the labels [N] of inputs x [N, size], with scikit-learn's default L2 penalty on the weights."""
        mean, spread = x.mean(axis=0), x.std(axis=0)
        spread = np.where(spread < _CONSTANT, 1.0, spread)
        solution = LogisticRegression(max_iter=1000).fit((x - mean) / spread, label)
        self.mean.copy_(torch.from_numpy(mean))
        self.spread.copy_(torch.from_numpy(spread))
        self.weights.copy_(torch.from_numpy(solution.coef_[0]))
        self.intercept.fill_(float(solution.intercept_[0]))
        self.rows.fill_(len(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N] of inputs x [N, size], float64."""
        return (x - self.mean) / self.spread @ self.weights + self.intercept
