"""The report of a run: versions, commit and machine, the table on the screen, and a CSV file of the scored rows."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_cora.files import write_whole

if TYPE_CHECKING:
    from recbole_cora.metrics import Metrics

METRICS = ("auc", "uauc", "logloss")
_PACKAGES = ("recbole-cora", "recbole", "torch", "transformers", "accelerate", "numpy", "pandas", "scipy")


def versions() -> dict[str, str | None]:
    """Return the installed version of each package that a result depends on; None if it is not installed."""
    by_package: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = None
    return by_package


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with "+" if files have changed since.

    None if it does not run from a checkout, or git is not installed.
    """
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
        return _git(folder, "rev-parse", "--short=10", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def machine() -> str:
    """Return the processor's name and its number of cores, and the GPU's name if there is one."""
    import torch  # here, because the command line imports this file only for its table

    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux names the model here
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def summary(result: Mapping[str, Any]) -> str:
    """Return a run's table: its valid (if scored) and test metrics, and the references' metrics on the test rows.

    Args:
        result: the content of `result.json`.
    """
    lines: list[tuple[str, Metrics]] = [("valid", result["valid"])] if "valid" in result else []
    lines.append((f"test {result['model']}", result["test"]))
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
    notes = [negatives_note(result["negatives"])] if result.get("negatives") else []
    return "\n".join([counts, *notes, head, *body])


def negatives_note(negatives: str) -> str:
    """Return the sentence about sampled negatives, whose AUC must not be compared with AUC on ratings."""
    return f"Dislikes: {negatives}; AUC on them is another number than AUC on ratings."


def write_scores(
    path: Path,
    users: Iterable[str],
    items: Iterable[str],
    labels: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    logits: bool,
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
