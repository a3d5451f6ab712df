"""The report of a comparison: Markdown for people, JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recbole_cora.compare.experiment import Experiment
from recbole_cora.compare.rows import Row, Statistic, rows_of
from recbole_cora.compare.runs import Result, Run
from recbole_cora.compare.significance import Significance, significance_of_runs
from recbole_cora.compare.verdict import markdown, sentences
from recbole_cora.files import json_text, write_whole
from recbole_cora.summary import negatives_note

_DECIMALS = 4


def write_report(experiment: Experiment, runs: Sequence[Run], failed: Mapping[str, str], out: Path) -> None:
    """Write `report.md`, `report.json` and `report.csv` about the finished runs; each file is replaced as a whole."""
    rows = rows_of(experiment, runs, failed)
    first = next((result for run in runs if (result := run.result()) is not None), None)
    significance = significance_of_runs(rows, runs, experiment.pairs)
    verdict = sentences(significance, rows, first["rows"]) if first else []
    statistics = {**significance.as_json(), "sentences": verdict}
    content = {
        "experiment": experiment.name, "dataset": experiment.dataset, "seeds": list(experiment.seeds),
        "settings": experiment.settings, "rows": first and first["rows"],
        **({"negatives": first["negatives"]} if first and "negatives" in first else {}),
        "uauc_users": first and first["uauc_users"], "versions": first and first["versions"],
        **_provenance(runs), "systems": [row.as_json() for row in rows],
        "statistics": statistics,
    }  # fmt: skip
    _write_text(out / "report.json", json_text(content))
    _write_text(out / "report.md", _markdown(experiment, rows, first, significance, verdict))
    _write_text(out / "report.csv", _csv(rows))


def _provenance(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return the commits and the machines of the finished runs; None stands for runs that did not record theirs."""
    results = [result for run in runs if (result := run.result()) is not None]
    distinct = {key: {result.get(key) for result in results} for key in ("commit", "machine")}
    return {f"{key}s": sorted(values, key=str) for key, values in distinct.items()}


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


def _markdown(
    experiment: Experiment,
    rows: Sequence[Row],
    first: Result | None,
    significance: Significance,
    verdict: Sequence[str],
) -> str:
    """Return the page: tables, statistics, failed and missing runs. `first` is the first finished run's result."""
    title = f"# {experiment.name} on {experiment.dataset}"
    if first is None:
        return "\n".join([title, "", "No run has finished.", *_troubles(rows)]) + "\n"
    counts = " / ".join(f"{n:,}" for n in first["rows"].values())
    llms = sorted({row.cost.llm for row in rows if row.cost is not None and row.cost.llm})
    lines = [
        title, "",
        f"{counts} rows (train / valid / test), UAUC over {first['uauc_users']['test']} test users; seeds "
        f"{', '.join(map(str, experiment.seeds))}: mean ± standard deviation. LLM: {', '.join(llms) or 'none'}.",
        *([negatives_note(first["negatives"])] if "negatives" in first else []),
        "Trained: number of parameters. Seconds: training and scoring. Published: the paper, with a 7B LLM.",
        "Bold: the highest mean, and each that ties with it (below) or, untested, shows the same number.", "",
        *table(
            rows, ["AUC", "UAUC", "LogLoss", "trained", "seconds", "published AUC", "published UAUC"],
            Ties.from_json(significance.as_json()),
        ),
        *markdown(significance, rows, verdict),
        "", "Warm: user and item both have a train row; warm (3): at least 3, as in the paper.", "",
        *_lines(rows, {
            f"{name} {metric.upper()}": _score_cell(split, metric)
            for split, name in (
                ("test_warm", "warm"), ("test_cold", "cold"), ("test_warm_at_least_3", "warm (3)"),
                ("test_cold_at_least_3", "cold (3)"),
            )
            for metric in ("auc", "uauc")
        }),
        "", "Seconds by part; 0: read from the cache.", "",
        *_lines(rows, {
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


@dataclass(frozen=True)
class Ties:
    """The systems that are not distinguishable from the best.

    Attributes:
        with_best: names by metric, the best included; no entry if nothing was tested.
        untested: the systems that have no statistics.
    """

    with_best: Mapping[str, Collection[str]] = field(default_factory=dict)
    untested: Collection[str] = ()

    @classmethod
    def from_json(cls, statistics: Mapping[str, Any]) -> Ties:
        """Return the ties that the entry `statistics` of report.json states; reports of old have none."""
        return cls(statistics.get("tied_with_best", {}), statistics.get("without", {}))

    def includes(self, row: Row, metric: str, shows_highest: bool) -> bool:
        """Return whether a row is bold in a metric's column. `shows_highest`: it shows the highest mean."""
        names = self.with_best.get(metric)
        return row.system in names or (row.system in self.untested and shows_highest) if names else shows_highest


def table(rows: Sequence[Row], headings: Sequence[str], ties: Ties | None = None) -> list[str]:
    """Return the lines of a Markdown table with some of `COLUMNS`; all that tie with the best are bold."""
    best = {"AUC": ("test", "auc"), "UAUC": ("test", "uauc")}
    best = {heading: places for heading, places in best.items() if heading in headings}
    return _lines(rows, {heading: COLUMNS[heading] for heading in headings}, best, ties)


def _lines(
    rows: Sequence[Row],
    columns: Mapping[str, _Column],
    best: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ties: Ties | None = None,
) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        columns: the cell of a row, by the column's heading.
        best: split and metric by heading; in these columns, the best and all that tie with it are bold.
        ties: who ties; without it, all rows that show the highest mean are bold.
    """
    ties = ties or Ties()
    lines = ["| system | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    means = {name: [_shown_mean(row.scores[split][metric]) for row in rows] for name, (split, metric) in best.items()}
    highest = {name: max((mean for mean in column if mean is not None), default=None) for name, column in means.items()}
    for place, row in enumerate(rows):
        cells = []
        for name, column in columns.items():
            mean = means[name][place] if name in best else None
            bold = mean is not None and ties.includes(row, best[name][1], mean == highest[name])
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


#: The columns of a table by their heading.
COLUMNS: dict[str, _Column] = {
    "AUC": _score_cell("test", "auc"),
    "UAUC": _score_cell("test", "uauc"),
    "LogLoss": _score_cell("test", "logloss"),
    "valid AUC": _score_cell("valid", "auc"),
    "valid UAUC": _score_cell("valid", "uauc"),
    "seeds": lambda row: str(len(row.seeds)),
    "trained": lambda row: f"{row.cost.trainable_parameters:,}" if row.cost is not None else "",
    "seconds": _seconds_cell("train", "score"),
    "published AUC": lambda row: _number(row.published.get("auc")),
    "published UAUC": lambda row: _number(row.published.get("uauc")),
}
