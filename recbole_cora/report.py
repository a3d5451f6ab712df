"""What a run leaves to read: `result.json`, and one table on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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


def _cell(value: float | None) -> str:
    return f"{value:8.4f}" if value is not None else " " * 8
