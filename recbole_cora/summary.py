"""What a run reports: the versions in `result.json`, the table on the screen, and a CSV file of the scored rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_cora.files import write_whole

if TYPE_CHECKING:
    from recbole_cora.metrics import Metrics

METRICS = ("auc", "uauc", "logloss")
_PACKAGES = ("recbole-cora", "recbole", "torch", "transformers", "accelerate", "numpy", "pandas", "scipy")


def versions() -> dict[str, str | None]:
    """Return the installed version of each package that a result depends on; None if it is not installed."""
    installed: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = None
    return installed


def summary(result: Mapping[str, Any]) -> str:
    """Return a run's table: its valid and test metrics, and the references' metrics on the test rows.

    Args:
        result: the content of `result.json`.
    """
    lines: list[tuple[str, Metrics]] = [
        ("valid", result["valid"]),
        (f"test {result['model']}", result["test"]),
    ]
    names = {"cf_encoder": f"test {result.get('cf_encoder')} (its encoder)", "llm_only": "test LLM, prompt only"}
    lines += [(names[key], metrics) for key, metrics in result.get("reference", {}).items()]
    width = max(len(name) for name, _ in lines)
    head = f"{'':{width}}  " + "  ".join(f"{m.upper():>8}" for m in METRICS)
    body = [f"{name:{width}}  " + "  ".join(_cell(metrics.get(m)) for m in METRICS) for name, metrics in lines]
    rows, users = result["rows"], result["uauc_users"]
    counts = (
        f"{result['dataset']}: {rows['train']:,} / {rows['valid']:,} / {rows['test']:,} rows; "
        f"UAUC over {users['valid']} valid and {users['test']} test users"
    )
    return "\n".join([counts, head, *body])


def write_scores(
    path: Path, users: Iterable[str], items: Iterable[str], labels: np.ndarray, scores: np.ndarray, *, logits: bool
) -> None:
    """Write a CSV file of scored rows, in order: user, item, label, and the model's logit or probability."""

    def fill(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("user", "item", "label", "logit" if logits else "probability"))
            writer.writerows(zip(users, items, labels.astype(int), scores.astype(float), strict=True))

    write_whole(path, fill)


def _cell(value: float | None) -> str:
    return f"{value:8.4f}" if value is not None else " " * 8
