"""What a run leaves to read: `result.json`, one table on the screen, and the scored rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recbole_cora.files import write_whole

METRICS = ("auc", "uauc", "logloss")
_PACKAGES = ("recbole-cora", "recbole", "torch", "transformers", "accelerate", "numpy", "pandas", "scipy")


def versions() -> dict[str, str | None]:
    """Installed versions of what a result depends on; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def summary(result: Mapping[str, Any]) -> str:
    """The run's table: its scores, and on the test rows the references beside them."""
    lines: list[tuple[str, Mapping[str, Any]]] = [
        ("valid", result["valid"]),
        (f"test {result['model']}", result["test"]),
    ]
    names = {"cf_encoder": f"test {result.get('cf_encoder')} (its encoder)", "llm_only": "test LLM, prompt only"}
    lines += [(names[key], scores) for key, scores in result.get("reference", {}).items()]
    width = max(len(name) for name, _ in lines)
    head = f"{'':{width}}  " + "  ".join(f"{m.upper():>8}" for m in METRICS)
    body = [f"{name:{width}}  " + "  ".join(_cell(scores.get(m)) for m in METRICS) for name, scores in lines]
    rows, users = result["rows"], result["uauc_users"]
    counts = (
        f"{result['dataset']}: {rows['train']:,} / {rows['valid']:,} / {rows['test']:,} rows; "
        f"UAUC over {users['valid']} valid and {users['test']} test users"
    )
    return "\n".join([counts, head, *body])


def write_scores(
    path: Path, users: Iterable[str], items: Iterable[str], labels: Any, scores: Any, *, logits: bool
) -> None:
    """Write a CSV of scored rows, in order: user, item, label, and what the model gives: a logit or a probability."""

    def fill(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("user", "item", "label", "logit" if logits else "probability"))
            writer.writerows(zip(users, items, labels.astype(int), scores.astype(float), strict=True))

    write_whole(path, fill)


def _cell(value: float | None) -> str:
    return f"{value:8.4f}" if value is not None else " " * 8
