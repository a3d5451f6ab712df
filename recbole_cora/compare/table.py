"""The report of a comparison: Markdown for people, JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from recbole_cora.compare.experiment import Experiment, System
from recbole_cora.compare.runs import Result, Run
from recbole_cora.files import json_text, write_whole

_SPLITS = ("test", "test_warm", "test_cold", "test_warm_at_least_3", "test_cold_at_least_3", "valid")
_METRICS = ("auc", "uauc", "logloss")
_DECIMALS = 4


@dataclass(frozen=True)
class Statistic:
    """The mean and spread of a number over the seeds.

    Attributes:
        mean: over the seeds that have a value.
        spread: the sample standard deviation; None for fewer than two values.
        values: one per finished run; None for an undefined one.
    """

    mean: float
    spread: float | None
    values: list[float | None]

    @classmethod
    def over(cls, values: Sequence[float | None]) -> Statistic | None:
        """Return the statistic of some values; None if no seed has one."""
        defined = [value for value in values if value is not None]
        if not defined:
            return None
        spread = statistics.stdev(defined) if len(defined) > 1 else None
        return cls(statistics.fmean(defined), spread, list(values))


@dataclass(frozen=True)
class Cost:
    """What the finished runs of a system cost.

    Attributes:
        llm: the LLM's name; None for a system without one.
        seconds: by part of a run.
    """

    trainable_parameters: int
    llm: str | None
    seconds: dict[str, Statistic | None]


@dataclass(frozen=True)
class Row:
    """One system's row.

    Attributes:
        seeds: of the finished runs.
        failed: why a run failed, by seed.
        missing: the seeds of runs that have neither finished nor failed.
        scores: by split and metric.
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


def _statistics_json(by_name: Mapping[str, Statistic | None]) -> dict[str, object]:
    return {name: None if statistic is None else vars(statistic) for name, statistic in by_name.items()}


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
        seeds=sorted(by_seed),
        failed={run.seed: failed[run.title] for run in system_runs if run.title in failed},
        missing=[run.seed for run in system_runs if run.seed not in by_seed and run.title not in failed],
        scores={
            split: {metric: Statistic.over([result[split][metric] for result in results]) for metric in _METRICS}
            for split in _SPLITS
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


def write_report(experiment: Experiment, runs: Sequence[Run], failed: Mapping[str, str], out: Path) -> None:
    """Write `report.md`, `report.json` and `report.csv` about the finished runs; each file is replaced as a whole."""
    rows = rows_of(experiment, runs, failed)
    first = next((result for run in runs if (result := run.result()) is not None), None)
    content = {
        "experiment": experiment.name, "dataset": experiment.dataset, "seeds": list(experiment.seeds),
        "settings": experiment.settings, "rows": first and first["rows"], "uauc_users": first and first["uauc_users"],
        "versions": first and first["versions"], "systems": [row.as_json() for row in rows],
    }  # fmt: skip
    _write_text(out / "report.json", json_text(content))
    _write_text(out / "report.md", _markdown(experiment, rows, first))
    _write_text(out / "report.csv", _csv(rows))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _csv(rows: Sequence[Row]) -> str:
    """Return one line per system, split and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "model", "split", "metric", "mean", "spread", "seeds", "values"])
    for row in rows:
        seeds = " ".join(map(str, row.seeds))
        for split, metrics in row.scores.items():
            for metric, cell in metrics.items():
                if cell is not None:
                    values = " ".join("" if value is None else f"{value:.6f}" for value in cell.values)
                    spread = "" if cell.spread is None else f"{cell.spread:.6f}"
                    writer.writerow([row.system, row.model, split, metric, f"{cell.mean:.6f}", spread, seeds, values])
    return text.getvalue()


def _markdown(experiment: Experiment, rows: Sequence[Row], first: Result | None) -> str:
    """Return the page: three tables, then the failed and missing runs; `first` is the first finished run's result."""
    title = f"# {experiment.name} on {experiment.dataset}"
    if first is None:
        return "\n".join([title, "", "No run has finished.", *_troubles(rows)]) + "\n"
    counts = " / ".join(f"{n:,}" for n in first["rows"].values())
    llms = sorted({row.cost.llm for row in rows if row.cost is not None and row.cost.llm})
    lines = [
        title, "",
        f"{counts} rows (train / valid / test), UAUC over {first['uauc_users']['test']} test users; seeds "
        f"{', '.join(map(str, experiment.seeds))}: mean ± standard deviation. LLM: {', '.join(llms) or 'none'}.",
        "Trained: parameters. Seconds: of training and scoring. Published: the paper's, with a 7B LLM.", "",
        *_table(rows, {
            "AUC": _score_cell("test", "auc"), "UAUC": _score_cell("test", "uauc"),
            "LogLoss": _score_cell("test", "logloss"),
            "trained": lambda row: f"{row.cost.trainable_parameters:,}" if row.cost is not None else "",
            "seconds": _seconds_cell("train", "score"),
            "published AUC": lambda row: _number(row.published.get("auc")),
            "UAUC ": lambda row: _number(row.published.get("uauc")),
        }, best={"AUC": ("test", "auc"), "UAUC": ("test", "uauc")}),
        "", "Warm: user and item seen in train; and, as the paper has it, at least 3 train rows each.", "",
        *_table(rows, {
            f"{name} {metric.upper()}": _score_cell(split, metric)
            for split, name in (
                ("test_warm", "warm"), ("test_cold", "cold"), ("test_warm_at_least_3", "warm (3)"),
                ("test_cold_at_least_3", "cold (3)"),
            )
            for metric in ("auc", "uauc")
        }),
        "", "Seconds, by part (0: kept from an earlier run).", "",
        *_table(rows, {
            part: _seconds_cell(part) for part in ("llm", "cf_encoder", "lora", "prompts", "train", "score", "total")
        }),
    ]  # fmt: skip
    return "\n".join([*lines, *_troubles(rows)]) + "\n"


def _troubles(rows: Sequence[Row]) -> list[str]:
    """Return the lines about failed and missing runs, with their heading if there are any."""
    lines = [f"- {row.system}, seed {seed}: {why}" for row in rows for seed, why in row.failed.items()]
    lines += [f"- {row.system}, seed {seed}: not finished yet" for row in rows for seed in row.missing]
    return ["", "Failed or missing:", "", *lines] if lines else []


_Column = Callable[[Row], str]


def _table(
    rows: Sequence[Row], columns: Mapping[str, _Column], best: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        columns: the cell of a row, by the column's heading.
        best: split and metric by heading; in these columns, all rows that show the highest mean are bold.
    """
    lines = ["| system | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    means = {name: [_shown_mean(row.scores[split][metric]) for row in rows] for name, (split, metric) in best.items()}
    highest = {name: max((mean for mean in column if mean is not None), default=None) for name, column in means.items()}
    for place, row in enumerate(rows):
        cells = []
        for name, column in columns.items():
            bold = name in best and means[name][place] is not None and means[name][place] == highest[name]
            cells.append(f"**{column(row)}**" if bold else column(row))
        system = row.system.replace("|", r"\|")  # an unescaped one would end the cell
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return lines


def _shown_mean(cell: Statistic | None) -> float | None:
    """Return the mean, rounded as `_number` prints it."""
    return None if cell is None else round(cell.mean, _DECIMALS)


def _score_cell(split: str, metric: str) -> _Column:
    def text(row: Row) -> str:
        cell = row.scores[split][metric]
        if cell is None:
            return ""
        spread = "" if cell.spread is None else f" ± {_number(cell.spread)}"
        return f"{_number(cell.mean)}{spread}"

    return text


def _seconds_cell(*parts: str) -> _Column:
    def text(row: Row) -> str:
        means = [statistic.mean for part in parts if (statistic := row.seconds_of(part)) is not None]
        return f"{sum(means):.0f}" if means else ""

    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{_DECIMALS}f}".removeprefix("0")
