"""From finished runs to the report: one table for people (Markdown), one for programs (JSON), one for sheets (CSV)."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recbole_cora.compare.experiment import Experiment
from recbole_cora.compare.runs import Run
from recbole_cora.files import json_text, write_whole

_SPLITS = ("test", "test_warm", "test_cold", "test_warm_at_least_3", "test_cold_at_least_3", "valid")
_METRICS = ("auc", "uauc", "logloss")
_DECIMALS = 4


def rows_of(experiment: Experiment, runs: Sequence[Run], failed: dict[str, str]) -> list[dict[str, Any]]:
    """One row per system: values of each seed, their mean and sample standard deviation, cost, and failures."""
    rows = []
    for system in experiment.systems:
        own = [run for run in runs if run.system is system]
        results = {run.seed: result for run in own if (result := run.result()) is not None}
        found = list(results.values())
        row: dict[str, Any] = {"system": system.name, "model": system.model, "seeds": sorted(results)}
        row["failed"] = {run.seed: failed[run.title] for run in own if run.title in failed}
        row["missing"] = [run.seed for run in own if run.seed not in results and run.title not in failed]
        for split in _SPLITS:
            row[split] = {metric: _over([result[split][metric] for result in found]) for metric in _METRICS}
        if found:
            last = found[-1]
            row["trainable_parameters"], row["llm"] = last["trainable_parameters"], last["llm"]
            parts = {part for result in found for part in result["seconds"]}
            row["seconds"] = {p: _over([result["seconds"].get(p, 0.0) for result in found]) for p in sorted(parts)}
        row["published"] = dict(zip(("auc", "uauc"), system.published.get(experiment.dataset, ()), strict=False))
        rows.append(row)
    return rows


def _over(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and spread over the seeds; None where no seed has a value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "spread": spread, "values": list(values)}


def write_report(experiment: Experiment, runs: Sequence[Run], failed: dict[str, str], out: Path) -> None:
    """`report.md`, `report.json` and `report.csv` of what is finished so far, each whole."""
    rows = rows_of(experiment, runs, failed)
    first = next((result for run in runs if (result := run.result()) is not None), None)
    told = {
        "experiment": experiment.name, "dataset": experiment.dataset, "seeds": list(experiment.seeds),
        "settings": experiment.settings, "rows": first and first["rows"], "uauc_users": first and first["uauc_users"],
        "versions": first and first["versions"], "systems": rows,
    }  # fmt: skip
    texts = {"report.json": json_text(told), "report.md": _markdown(experiment, rows, first), "report.csv": _csv(rows)}
    for name, text in texts.items():
        write_whole(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line per system, split and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "model", "split", "metric", "mean", "spread", "seeds", "values"])
    for row in rows:
        for split in _SPLITS:
            for metric in _METRICS:
                if (cell := row[split][metric]) is not None:
                    values = " ".join("" if value is None else f"{value:.6f}" for value in cell["values"])
                    spread = "" if cell["spread"] is None else f"{cell['spread']:.6f}"
                    seeds = " ".join(map(str, row["seeds"]))
                    writer.writerow(
                        [row["system"], row["model"], split, metric, f"{cell['mean']:.6f}", spread, seeds, values]
                    )
    return text.getvalue()


def _markdown(experiment: Experiment, rows: list[dict[str, Any]], first: dict[str, Any] | None) -> str:
    troubles = [f"- {row['system']}, seed {seed}: {why}" for row in rows for seed, why in row["failed"].items()]
    troubles += [f"- {row['system']}, seed {seed}: not finished yet" for row in rows for seed in row["missing"]]
    if troubles:
        troubles = ["", "Failed or missing:", "", *troubles]
    if first is None:
        return "\n".join([f"# {experiment.name} on {experiment.dataset}", "", "No run has finished.", *troubles]) + "\n"
    counts = " / ".join(f"{n:,}" for n in first["rows"].values())
    llms = sorted({row["llm"] for row in rows if row.get("llm")})
    lines = [
        f"# {experiment.name} on {experiment.dataset}", "",
        f"{counts} rows (train / valid / test), UAUC over {first['uauc_users']['test']} test users; seeds "
        f"{', '.join(map(str, experiment.seeds))}: mean ± standard deviation. LLM: {', '.join(llms) or 'none'}.",
        "Trained: parameters. Seconds: of training and scoring. Published: the paper's, with a 7B LLM.", "",
        *_table(rows, {
            "AUC": _cell("test", "auc"), "UAUC": _cell("test", "uauc"), "LogLoss": _cell("test", "logloss"),
            "trained": lambda row: f"{row['trainable_parameters']:,}" if "trainable_parameters" in row else "",
            "seconds": _seconds("train", "score"),
            "published AUC": lambda row: _number(row["published"].get("auc")),
            "UAUC ": lambda row: _number(row["published"].get("uauc")),
        }, best={"AUC": ("test", "auc"), "UAUC": ("test", "uauc")}),
        "", "Warm: user and item seen in train; and, as the paper has it, at least 3 train rows each.", "",
        *_table(rows, {
            f"{name} {metric.upper()}": _cell(split, metric)
            for split, name in (
                ("test_warm", "warm"), ("test_cold", "cold"), ("test_warm_at_least_3", "warm (3)"),
                ("test_cold_at_least_3", "cold (3)"),
            )
            for metric in ("auc", "uauc")
        }),
        "", "Seconds, by part (0: kept from an earlier run).", "",
        *_table(rows, {
            part: _seconds(part) for part in ("llm", "cf_encoder", "lora", "prompts", "train", "score", "total")
        }),
    ]  # fmt: skip
    return "\n".join([*lines, *troubles]) + "\n"


_Column = Callable[[dict[str, Any]], str]


def _table(
    rows: list[dict[str, Any]], columns: dict[str, _Column], best: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> list[str]:
    """Return a Markdown table.

    Args:
        best: split and metric by column: there every row with the highest mean, as shown, is bold.
    """
    lines = ["| system | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    means = {name: [_shown_mean(row[split][metric]) for row in rows] for name, (split, metric) in best.items()}
    highest = {name: max((mean for mean in column if mean is not None), default=None) for name, column in means.items()}
    for place, row in enumerate(rows):
        cells = []
        for name, column in columns.items():
            bold = name in best and means[name][place] is not None and means[name][place] == highest[name]
            cells.append(f"**{column(row)}**" if bold else column(row))
        system = row["system"].replace("|", r"\|")  # else it would end the cell
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return lines


def _shown_mean(value: dict[str, Any] | None) -> float | None:
    """Return the mean with the decimals that `_number` prints."""
    return None if value is None else round(value["mean"], _DECIMALS)


def _cell(split: str, metric: str) -> _Column:
    def text(row: dict[str, Any]) -> str:
        value = row[split][metric]
        if value is None:
            return ""
        spread = "" if value["spread"] is None else f" ± {_number(value['spread'])}"
        return f"{_number(value['mean'])}{spread}"

    return text


def _seconds(*parts: str) -> _Column:
    def text(row: dict[str, Any]) -> str:
        spent = [row["seconds"][part]["mean"] for part in parts if part in row.get("seconds", {})]
        return f"{sum(spent):.0f}" if spent else ""

    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{_DECIMALS}f}".removeprefix("0")
