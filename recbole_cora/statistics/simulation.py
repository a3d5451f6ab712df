"""Coverage of the intervals and error rate of the tests, on simulated scores whose true AUC and UAUC are known.

    >>> from recbole_cora.statistics.simulation import coverage, rejections
    >>> coverage(simulations=400)
    >>> rejections(simulations=400)

A row of user u with label y has the score

    s = (d + t z_u) y + a_u + e,    z_u, a_u, e standard normal,

so that users differ in how well they are ranked (t) and in their mean score (a). Two rows of different users and
labels differ by d + t z + a - a' + e - e'; two rows of one user by d + t z + e - e'. The true values are therefore
AUC = Phi(d / sqrt(t^2 + 4)) and UAUC = Phi(d / sqrt(t^2 + 2)). Two systems share half of each variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from recbole_cora.statistics.bootstrap import METRICS, Interval, Resampled, interval, resample
from recbole_cora.statistics.paired import difference
from recbole_cora.statistics.users import statistics_of

#: t: the spread of the users' signals.
_SPREAD = 0.5


def true_metrics(signal: float) -> dict[str, float]:
    """Return the true AUC and UAUC of a system with this mean signal d."""
    noise = dict(zip(METRICS, (4, 2), strict=True))
    return {name: float(norm.cdf(signal / np.sqrt(_SPREAD**2 + variance))) for name, variance in noise.items()}


def simulate(
    random: np.random.Generator, users: int, signals: tuple[float, float]
) -> tuple[NDArray[np.intp], NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Return users and labels of rows, and their scores by two systems with these signals; 5 to 39 rows per user."""
    user = np.repeat(np.arange(users), random.integers(5, 40, users))
    labels = random.random(len(user)) < random.beta(3, 2, users)[user]  # some like more than others
    shared = _noise(random, users, len(user))
    scores = []
    for signal in signals:
        z, a, e = (
            (common + own) / np.sqrt(2) for common, own in zip(shared, _noise(random, users, len(user)), strict=True)
        )
        scores.append((signal + _SPREAD * z[user]) * labels + a[user] + e)
    return user, labels, scores


def _noise(random: np.random.Generator, users: int, rows: int) -> list[NDArray[np.float64]]:
    return [random.normal(size=users), random.normal(size=users), random.normal(size=rows)]


def _systems(
    random: np.random.Generator, users: int, signals: tuple[float, float], resamples: int
) -> tuple[Resampled, Resampled]:
    user, labels, scores = simulate(random, users, signals)
    seed = int(random.integers(2**31))
    first, second = (resample(statistics_of(user, labels, each), resamples, seed) for each in scores)
    return first, second


def coverage(
    simulations: int = 400,
    users: int = 100,
    resamples: int = 999,
    signals: tuple[float, float] = (1.2, 1.0),
    seed: int = 0,
) -> dict[str, float]:
    """Return how often the intervals cover the truth: of "auc", "uauc", "auc difference" and "uauc difference"."""
    random = np.random.default_rng(seed)
    truth = [true_metrics(signal) for signal in signals]
    covered: dict[str, int] = {}
    for _ in range(simulations):
        first, second = _systems(random, users, signals, resamples)
        for metric in METRICS:
            cases: dict[str, tuple[NDArray[Any], float]] = {
                metric: (first.values[metric], truth[0][metric]),
                f"{metric} difference": (
                    first.values[metric] - second.values[metric], truth[0][metric] - truth[1][metric]
                ),
            }  # fmt: skip
            for name, (values, true_value) in cases.items():
                covered[name] = covered.get(name, 0) + _covers(interval(values), true_value)
    return {name: count / simulations for name, count in covered.items()}


def _covers(bounds: Interval | None, value: float) -> bool:
    return bounds is not None and bounds.low <= value <= bounds.high


def rejections(
    simulations: int = 400,
    users: int = 100,
    resamples: int = 999,
    signals: tuple[float, float] = (1.0, 1.0),
    seed: int = 1,
) -> dict[str, float]:
    """Return how often each metric's test finds a difference at 5 %; with equal signals there is none."""
    random = np.random.default_rng(seed)
    found = dict.fromkeys(METRICS, 0)
    for _ in range(simulations):
        first, second = _systems(random, users, signals, resamples)
        for metric in METRICS:
            test = difference(metric, first, second, resamples)
            found[metric] += test is not None and test.p < 0.05
    return {metric: count / simulations for metric, count in found.items()}
