"""AUC, UAUC and LogLoss on labelled rows, and their registration in RecBole's evaluator.

UAUC (CoLLM's, adopted by the paper) is the unweighted mean of per-user AUC over the users who have both labels in the
split. It is not RecBole's GAUC, which weights users by their positives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from recbole.evaluator import Collector
from recbole.evaluator import register as recbole_register
from recbole.evaluator.base_metric import LossMetric
from recbole.evaluator.collector import DataStruct
from scipy.stats import rankdata
from torch import Tensor

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

#: Scores by metric name, in lower case; None where the rows do not determine the metric.
Metrics = dict[str, float | None]
#: One value per row: [N], of any numeric dtype.
Vector = NDArray[Any]

#: RecBole's models whose `predict` returns probabilities although it names no sigmoid: `forward` ends in one.
_SIGMOID_IN_FORWARD = {"DCNV2", "KD_DAGFM"}


def scores_are_logits(model_class: type) -> bool:
    """Tell whether a model's `predict` returns logits rather than probabilities.

    This package's models declare it (`scores_are_logits` in the class). RecBole's do not: their scores count as
    probabilities if `predict` applies a sigmoid, else as logits. Logits include dot products, distances, and scores
    that training does not tie to a label (CDAE's activation is a setting, RepeatNet's softmax is over items).
    """
    declaration = getattr(model_class, "scores_are_logits", None)
    if declaration is not None:
        return bool(declaration)
    code = getattr(getattr(model_class, "predict", None), "__code__", None)
    applies_sigmoid = code is not None and "sigmoid" in code.co_names
    return not applies_sigmoid and model_class.__name__ not in _SIGMOID_IN_FORWARD


def auc(scores: Vector, labels: Vector) -> float:
    """Return the area under the ROC curve by mid-ranks; NaN if one class is absent. scores, labels: [N]."""
    positive = labels > 0.5
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def uauc(users: Vector, scores: Vector, labels: Vector) -> tuple[float, int]:
    """Return the mean per-user AUC and the number of its users, those with both classes.

    users, scores, labels: [N]. The mean is NaN if there is no such user.
    """
    if not len(users):
        return float("nan"), 0
    # All users in one sort: calling `auc` for each user would take longer than the rest of an epoch.
    order = np.lexsort((scores, users))
    users, scores, positive = users[order], scores[order], labels[order] > 0.5
    new_user = np.append(True, users[1:] != users[:-1])
    user = np.cumsum(new_user) - 1
    tie = np.cumsum(new_user | np.append(True, scores[1:] != scores[:-1])) - 1
    place = np.arange(len(users)) - np.flatnonzero(new_user)[user]  # within its user
    rank = 1 + (np.bincount(tie, place) / np.bincount(tie))[tie]  # mid-rank
    n = np.bincount(user)
    n_pos = np.bincount(user, positive)
    both = (n_pos > 0) & (n_pos < n)
    if not both.any():
        return float("nan"), 0
    n, n_pos, ranks = n[both], n_pos[both], np.bincount(user, rank * positive)[both]
    per_user = (ranks - n_pos * (n_pos + 1) / 2) / (n_pos * (n - n_pos))
    return float(per_user.mean()), len(per_user)


def logloss(scores: Vector, labels: Vector, *, logits: bool) -> float:
    """Return the mean binary cross-entropy of scores [N], logits or probabilities, against labels [N]."""
    scores = scores.astype(np.float64)
    if logits:
        return float(np.mean(np.logaddexp(0.0, scores) - labels * scores))
    p = np.clip(scores, 1e-15, 1 - 1e-15)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


class AUC(LossMetric):
    """RecBole's AUC, but with ties counted as half and no warning if one class is absent."""

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        scores, labels = self.used_info(dataobject)
        return {"auc": round(auc(scores, labels), self.decimal_place)}


class UAUC(LossMetric):
    """The mean per-user AUC; see `uauc`."""

    metric_need = ["rec.score", "data.label", "data.user"]  # noqa: RUF012  (declared as RecBole does)

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        scores, labels = self.used_info(dataobject)
        value, _ = uauc(dataobject.get("data.user").numpy(), scores, labels)
        return {"uauc": round(value, self.decimal_place)}


class LogLoss(LossMetric):
    """LogLoss of logits or probabilities, whichever the model returns; RecBole's takes all scores as probabilities."""

    smaller = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.logits = config.scores_are_logits  # an attribute of our CoraConfig

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        scores, labels = self.used_info(dataobject)
        return {"logloss": round(logloss(scores, labels, logits=self.logits), self.decimal_place)}


class UserCollector(Collector):
    """RecBole's Collector, which also keeps each row's user for UAUC."""

    def eval_batch_collect(
        self, scores: Tensor, interaction: Interaction, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        super().eval_batch_collect(scores, interaction, positive_u, positive_i)
        if self.register.need("data.user"):
            self.data_struct.update_tensor("data.user", interaction[self.config["USER_ID_FIELD"]].to(self.device))

    def get_data_struct(self) -> DataStruct:
        struct = super().get_data_struct()
        if "data.user" in self.data_struct:  # RecBole clears only its own fields between evaluations
            del self.data_struct["data.user"]
        return struct


def register() -> None:
    """Add the three metrics to RecBole's tables, in place. Call it before a Config is built."""
    for metric in (AUC, UAUC, LogLoss):
        name = metric.__name__.lower()
        recbole_register.metrics_dict[name] = metric
        recbole_register.metric_types[name] = metric.metric_type
        recbole_register.metric_information[name] = metric.metric_need
