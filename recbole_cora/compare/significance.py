"""Which differences between systems are real: intervals, p-values with Holm's correction, and ties.

For each of AUC and UAUC, the best system (the highest mean) is compared with each other, and so is each pair that the
experiment names. All these tests are one family for Holm's correction. Two systems tie if their corrected p-value is
not below 5 %.

The best is chosen by the same rows. Holm's correction is for the number of tests, not for that choice: of 26 equal
systems (independent, normal), a given one loses its tie in 2 % of tables, but some one does in 27 %; of 3, in 7 %. A
claim about two systems that were chosen beforehand belongs in `pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from recbole_cora.compare.rows import Row
from recbole_cora.compare.runs import Run
from recbole_cora.compare.scores import Samples, samples_of
from recbole_cora.errors import SettingError
from recbole_cora.statistics.bootstrap import LEVEL, METRICS, RESAMPLES, Interval, Resampled, interval
from recbole_cora.statistics.paired import Difference, check_installed, difference, holm

#: Corrected p-values below this are significant.
ALPHA = 0.05
_TESTS = {"auc": "paired bootstrap over users", "uauc": "sign-flip permutation test over users"}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two systems by one metric.

    Attributes:
        difference: the metric of `first` minus that of `second`; low, high: its interval.
        p, p_holm: the p-value, and the same after Holm's correction.
        tie: whether `p_holm` is at least 5 %.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    tie: bool


@dataclass(frozen=True)
class Significance:
    """Statistics of a comparison.

    Attributes:
        users: number of test users that are resampled.
        intervals: by system and metric.
        best: the system with the highest mean by metric. A metric is missing if that system has no statistics.
        comparisons: the best with each other system, then the named pairs; each pair once per metric.
        pairs: the named pairs.
        without: why a system has no statistics.
        problem: why nothing was computed; "" otherwise.
    """

    users: int
    intervals: Mapping[str, Mapping[str, Interval | None]]
    best: Mapping[str, str]
    comparisons: Sequence[Comparison]
    pairs: Sequence[tuple[str, str]]
    without: Mapping[str, str]
    problem: str = ""

    def between(self, metric: str, first: str, second: str) -> Comparison | None:
        """Return the comparison of two systems, the first minus the second; None if they were not compared."""
        for each in self.comparisons:
            if each.metric == metric and (each.first, each.second) == (first, second):
                return each
            if each.metric == metric and (each.second, each.first) == (first, second):
                turned = {"difference": -each.difference, "low": -each.high, "high": -each.low}
                return Comparison(**{**vars(each), **turned, "first": first, "second": second})
        return None

    def tied_with_best(self, metric: str) -> list[str]:
        """Return the best system and those that tie with it; none if the best has no statistics."""
        best = self.best.get(metric)
        if best is None:
            return []
        others = [name for name in self.intervals if (c := self.between(metric, best, name)) is not None and c.tie]
        return [best, *others]

    def as_json(self) -> dict[str, object]:
        """Return the content of the entry `statistics` of report.json."""
        return {
            "level": LEVEL, "resamples": RESAMPLES, "users": self.users, "tests": _TESTS, "correction": "holm",
            "problem": self.problem, "without": dict(self.without), "best": dict(self.best),
            "tied_with_best": {metric: self.tied_with_best(metric) for metric in METRICS},
            "intervals": self.intervals, "pairs": [list(pair) for pair in self.pairs],
            "comparisons": [asdict(each) for each in self.comparisons],
        }  # fmt: skip


def significance_of(
    samples: Samples, means: Mapping[str, Mapping[str, float]], pairs: Sequence[tuple[str, str]]
) -> Significance:
    """Return the statistics of a comparison.

    Args:
        means: the table's mean by metric and system, for every system that has one.
        pairs: pairs of systems to compare, beside the best with each other.
    """
    systems = samples.by_system
    try:
        check_installed()
    except SettingError as error:
        return Significance(0, {}, {}, [], pairs, {}, str(error))
    intervals = {name: {m: interval(each.values[m]) for m in METRICS} for name, each in systems.items()}
    best: dict[str, str] = {}
    tests: list[tuple[str, str, str, Difference]] = []
    for metric in METRICS:
        leader = max(means[metric], key=means[metric].__getitem__, default=None)
        against: list[tuple[str, str]] = []
        if leader is not None and leader in systems:
            best[metric] = leader
            against = [(leader, name) for name in systems if name != leader]
        against += [pair for pair in pairs if set(pair) <= set(systems) and set(pair) not in map(set, against)]
        for first, second in against:
            measured = _difference(metric, systems[first], systems[second])
            if measured is not None and not math.isnan(measured.p):
                tests.append((metric, first, second, measured))
    corrected = holm([measured.p for *_, measured in tests])
    comparisons = [
        Comparison(metric, first, second, measured.value, *measured.interval, measured.p, p_holm, p_holm >= ALPHA)
        for (metric, first, second, measured), p_holm in zip(tests, corrected, strict=True)
    ]
    return Significance(samples.users, intervals, best, comparisons, pairs, samples.without)


def significance_of_runs(rows: Sequence[Row], runs: Sequence[Run], pairs: Sequence[tuple[str, str]]) -> Significance:
    """Return the statistics of finished runs; `rows` are those of the table."""
    means = {m: {row.system: c.mean for row in rows if (c := row.scores["test"][m]) is not None} for m in METRICS}
    return significance_of(samples_of(runs), means, pairs)


@lru_cache(maxsize=4096)
def _difference(metric: str, first: Resampled, second: Resampled) -> Difference | None:
    """Return `difference`, which is remembered for the reports after later runs."""
    return difference(metric, first, second)
