"""Bootstrap over users: intervals of AUC and UAUC, and of their differences between systems.

Every system's resamples come from the same seed, so that resample b holds the same users for all of them: the
difference of two systems' values is the paired bootstrap of the difference.

Intervals are percentile intervals. Those of simulated scores cover the truth as often as they should (simulation.py);
BCa would need a jackknife per pair of systems, and has no value for two systems that agree on every resample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recbole_cora.statistics.users import Floats, UserStatistics

#: Resamples, and permutations of a test. The smallest p-value is 2 / 10,000, so that it can remain below .05 after
#: Holm's correction for up to 249 tests.
RESAMPLES = 9_999
#: Probability with which an interval covers the true value.
LEVEL = 0.95
METRICS = ("auc", "uauc")
#: Resamples at once; bounds memory.
_BATCH = 500


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """A system's metrics on all users, and on each resample of the users.

    Attributes:
        estimate: AUC and UAUC on all users; NaN if undefined.
        values: the metric of each resample by metric, [B]; NaN where the resample does not determine it.
        auc_sum, auc_users: see `UserStatistics`, [G].
    """

    estimate: dict[str, float]
    values: dict[str, Floats]
    auc_sum: Floats
    auc_users: Floats


def resample(statistics: UserStatistics, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Return the metrics of `resamples` draws of the users with replacement.

    Raises:
        ValueError: there are fewer than two users.
    """
    groups = len(statistics.liked)

    def metrics(draws: NDArray[np.intp], axis: int) -> Floats:  # axis is -1: draws [B, G] -> [2, B]
        counts = _counts(np.atleast_2d(draws), groups)
        return np.stack([statistics.auc(counts), statistics.uauc(counts)])

    bootstrap: Any = scipy.stats.bootstrap(
        (np.arange(groups),), metrics, n_resamples=resamples, batch=_BATCH, vectorized=True, method="percentile",
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    everyone = metrics(np.arange(groups), -1)[:, 0]
    return Resampled(
        estimate=dict(zip(METRICS, everyone.tolist(), strict=True)),
        values=dict(zip(METRICS, bootstrap.bootstrap_distribution, strict=True)),
        auc_sum=statistics.auc_sum,
        auc_users=statistics.auc_users,
    )


def _counts(draws: NDArray[np.intp], groups: int) -> Floats:
    """Return how often each group was drawn, [B, G]. draws: [B, G]."""
    rows = np.arange(len(draws))[:, None] * groups
    return np.bincount((draws + rows).ravel(), minlength=len(draws) * groups).reshape(-1, groups).astype(float)


def interval(values: Floats, level: float = LEVEL) -> Interval | None:
    """Return the percentile interval of resampled values [B]; None if all are undefined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def p_value(differences: Floats) -> float:
    """Return the two-sided p-value of "the difference is zero" from resampled differences [B].

    It is the level at which the percentile interval just touches zero (Efron and Tibshirani 1993, section 15.4), with
    one added to each count, so that it is never zero (Davison and Hinkley 1997, equation 4.11). NaN if undefined.
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    tail = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))
