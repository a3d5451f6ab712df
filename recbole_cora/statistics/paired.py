"""Paired tests between two systems on the same rows, and Holm's correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from recbole_cora.errors import SettingError
from recbole_cora.statistics.bootstrap import RESAMPLES, Interval, Resampled, interval, p_value

_BATCH = 1_000


@dataclass(frozen=True)
class Difference:
    """A difference of a metric between two systems, the first minus the second.

    Attributes:
        p: the two-sided p-value of "there is no difference", not corrected.
    """

    value: float
    interval: Interval
    p: float


def difference(metric: str, first: Resampled, second: Resampled, permutations: int = RESAMPLES) -> Difference | None:
    """Return the difference of two systems on the same users; None if the metric is undefined.

    The p-value of AUC is the bootstrap's: AUC compares rows of different users, so exchanging two systems' scores for
    some users changes it if the scores differ in scale. UAUC is a mean over users, for which there is an exact test
    (`sign_flip_p_value`).
    """
    value = first.estimate[metric] - second.estimate[metric]
    differences = first.values[metric] - second.values[metric]
    bounds = interval(differences)
    if bounds is None or np.isnan(value):
        return None
    p = sign_flip_p_value(first, second, permutations) if metric == "uauc" else p_value(differences)
    return Difference(value, bounds, p)


def sign_flip_p_value(first: Resampled, second: Resampled, permutations: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p-value of "both systems have the same UAUC" by a permutation test over users.

    If the systems do not differ, a user's two AUCs can be exchanged, which flips the sign of their difference (Fisher's
    randomisation test). Users without both labels have no AUC and do not take part. NaN if there are fewer than two.
    """
    takes_part = first.auc_users > 0
    differences = (first.auc_sum - second.auc_sum)[takes_part]
    if len(differences) < 2:
        return float("nan")
    test: Any = scipy.stats.permutation_test(
        (differences,), lambda values, axis: values.sum(axis), permutation_type="samples", vectorized=True,
        n_resamples=permutations, batch=_BATCH, random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def check_installed() -> None:
    """Check that statsmodels can be imported.

    Raises:
        SettingError: it is not installed; the message names the command.
    """
    try:
        import statsmodels.stats.multitest  # noqa: F401
    except ImportError:
        raise SettingError(
            "Holm's correction needs statsmodels; install it: pip install 'recbole-cora[report]'"
        ) from None


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979).

    Raises:
        SettingError: statsmodels is not installed.
    """
    check_installed()
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    corrected: list[float] = multipletests(p_values, method="holm")[1].tolist()
    return corrected
