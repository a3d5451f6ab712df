"""The rows of a comparison: the scores and the cost of each system over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_cora.compare.experiment import Experiment, System
from recbole_cora.compare.runs import Result, Run

SPLITS = ("test", "test_warm", "test_cold", "test_warm_at_least_3", "test_cold_at_least_3", "valid")
METRICS = ("auc", "uauc", "logloss")


@dataclass(frozen=True)
class Statistic:
    """The mean and spread of a number over the seeds.

    Attributes:
        mean: the mean over the seeds that have a value.
        spread: the sample standard deviation; None for fewer than two values.
        values: one per finished run; None if it is undefined.
    """

    mean: float
    spread: float | None
    values: list[float | None]

    @classmethod
    def over(cls, values: Sequence[float | None]) -> Statistic | None:
        """Return the statistic of some values; None if all are undefined."""
        numbers = [value for value in values if value is not None]
        if not numbers:
            return None
        spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), spread, list(values))


@dataclass(frozen=True)
class Cost:
    """Cost of a system's finished runs.

    Attributes:
        llm: the LLM's name; None for a system without one.
        seconds: wall-clock seconds by part of a run.
    """

    trainable_parameters: int
    llm: str | None
    seconds: dict[str, Statistic | None]


@dataclass(frozen=True)
class Row:
    """One system's row.

    Attributes:
        seeds: the seeds of the finished runs.
        failed: why a run failed, by seed.
        missing: the seeds of runs that have neither finished nor failed.
        scores: the scores by split and metric.
        cost: None if no run has finished.
        published: the paper's AUC and UAUC on this dataset, if any.
    """

    system: str
    model: str
    seeds: list[int]
    failed: dict[int, str]
    missing: list[int]
    scores: dict[str, dict[str, Statistic | None]]
    cost: Cost | None
    published: dict[str, float]

    def seconds_of(self, part: str) -> Statistic | None:
        """Return the seconds of one part of a run; None if no finished run has it."""
        return self.cost.seconds.get(part) if self.cost is not None else None

    def seconds_per_1000_pairs(self, counts: Mapping[str, int]) -> float | None:
        """Return the mean seconds in which 1,000 pairs are scored; None if no finished run has scored any.

        Args:
            counts: numbers of rows by split. A run scores its test rows, and its valid rows unless `score_valid` is
                off.
        """
        seconds = self.seconds_of("score")
        scored = [split for split in ("valid", "test") if any(cell is not None for cell in self.scores[split].values())]
        pairs = sum(counts[split] for split in scored)
        return 1000 * seconds.mean / pairs if seconds is not None and pairs else None

    def as_json(self) -> dict[str, object]:
        """Return the row as an entry of report.json."""
        content: dict[str, object] = {
            "system": self.system, "model": self.model, "seeds": self.seeds, "failed": self.failed,
            "missing": self.missing,
        }  # fmt: skip
        content |= {split: _statistics_json(metrics) for split, metrics in self.scores.items()}
        if self.cost is not None:
            content |= {**vars(self.cost), "seconds": _statistics_json(self.cost.seconds)}
        return {**content, "published": self.published}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """Return the row that an entry of report.json describes."""
        cost = None
        if "seconds" in content:
            seconds = _statistics_from_json(content["seconds"])
            cost = Cost(content["trainable_parameters"], content["llm"], seconds)
        return cls(
            system=content["system"],
            model=content["model"],
            seeds=content["seeds"],
            failed={int(seed): why for seed, why in content["failed"].items()},
            missing=content["missing"],
            scores={split: _statistics_from_json(content[split]) for split in SPLITS},
            cost=cost,
            published=content["published"],
        )


def _statistics_json(by_name: Mapping[str, Statistic | None]) -> dict[str, object]:
    return {name: None if statistic is None else vars(statistic) for name, statistic in by_name.items()}


def _statistics_from_json(by_name: Mapping[str, Any]) -> dict[str, Statistic | None]:
    return {name: None if content is None else Statistic(**content) for name, content in by_name.items()}


def rows_of(experiment: Experiment, runs: Sequence[Run], failed: Mapping[str, str]) -> list[Row]:
    """Return one row per system; `failed` gives the reason of each failed run by its title."""
    return [_row(experiment, system, runs, failed) for system in experiment.systems]


def _row(experiment: Experiment, system: System, runs: Sequence[Run], failed: Mapping[str, str]) -> Row:
    system_runs = [run for run in runs if run.system is system]
    by_seed = {run.seed: result for run in system_runs if (result := run.result()) is not None}
    results = list(by_seed.values())
    return Row(
        system=system.name,
        model=system.model,
        seeds=list(by_seed),
        failed={run.seed: failed[run.title] for run in system_runs if run.title in failed},
        missing=[run.seed for run in system_runs if run.seed not in by_seed and run.title not in failed],
        scores={
            split: {
                metric: Statistic.over([result.get(split, {}).get(metric) for result in results]) for metric in METRICS
            }
            for split in SPLITS
        },
        cost=_cost(results),
        published=dict(zip(("auc", "uauc"), system.published.get(experiment.dataset, ()), strict=False)),
    )


def _cost(results: Sequence[Result]) -> Cost | None:
    if not results:
        return None
    last = results[-1]
    parts = sorted({part for result in results for part in result["seconds"]})
    seconds = {part: Statistic.over([result["seconds"].get(part, 0.0) for result in results]) for part in parts}
    return Cost(last["trainable_parameters"], last["llm"], seconds)
