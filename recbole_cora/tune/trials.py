"""What becomes of a search's trials, and what is left of it: `trials.json`, `trials.md`, `best.yaml`, `search.png`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from recbole_cora.errors import SettingError
from recbole_cora.files import write_json, write_whole

#: Of these a search that is gone on with runs the failed ones again, as memory or a machine may be there now.
DONE = ("finished", "stopped early")
ENDED = (*DONE, "failed")
_NOTE = "trial.json"


class Trial:
    """A trial's own note of what becomes of it: `trials/<name>/trial.json`, written whole after each change.

    Args:
        folder: of the search.
        bigger: whether more is better in what is evaluated.
    """

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], bigger: bool) -> None:
        self.folder = folder / "trials" / name
        self._bigger = bigger
        self._note = _note(self.folder) or _new(name, settings)  # of a process that was killed
        self._note |= {"status": "running", "why": "", "process": os.getpid()}
        self._begun = perf_counter() - self._note["seconds"]
        self._write()

    def evaluated(self, epoch: int, value: float) -> None:
        """After each evaluation on the valid rows; one that was made before the process was killed is made again."""
        before = [entry for entry in self._note["evaluations"] if entry[0] < epoch]
        self._note["evaluations"] = [*before, [epoch, value]]
        self._note["best"] = (max if self._bigger else min)(entry[1] for entry in self._note["evaluations"])
        self._write()

    def finished(self) -> None:
        """At its end."""
        self._note["status"] = "finished"
        self._write()

    def failed(self, why: str) -> None:
        """At its end, with the reason; what it reached before does not count."""
        self._note |= {"status": "failed", "why": why, "best": None}
        self._write()

    def _write(self) -> None:
        write_json(self.folder / _NOTE, {**self._note, "seconds": round(perf_counter() - self._begun, 2)})


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """Every trial that has begun, by name."""
    notes = (_note(path.parent) for path in sorted(folder.glob(f"trials/*/{_NOTE}")))
    return [note for note in notes if note is not None]


def note_end(folder: Path, name: str, settings: dict[str, Any], status: str, why: str = "") -> None:
    """Of a trial that did not write its own end."""
    own = folder / "trials" / name
    note = _note(own) or _new(name, settings)
    if note["status"] not in ENDED:
        best = None if status == "failed" else note["best"]
        write_json(own / _NOTE, {**note, "status": status, "why": why, "best": best})


def note_waiting(folder: Path, notes: list[dict[str, Any]]) -> None:
    """Of trials that are to be run again, or further: what ended them before does not count any more."""
    for note in notes:
        write_json(folder / "trials" / note["name"] / _NOTE, {**note, "status": "waiting", "why": ""})


def _new(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name, "status": "running", "why": "", "settings": settings, "best": None, "evaluations": [],
        "seconds": 0.0,
    }  # fmt: skip


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def best_first(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials, those without a value last."""
    sign = -1 if told["bigger"] else 1
    return sorted(told["trials"], key=lambda trial: (trial["best"] is None, sign * (trial["best"] or 0.0)))


def write_trials(folder: Path, told: dict[str, Any]) -> None:
    """Write them all.

    Args:
        told: `metric`, `bigger`, `space`, `trials` (each: name, status, why, settings, best, evaluations [epoch,
            value], seconds, process), and once there is one, `best` (name, settings, valid, test).
    """
    write_json(folder / "trials.json", told)
    page = "\n".join(table(told)) + "\n"
    write_whole(folder / "trials.md", lambda path: path.write_text(page, encoding="utf-8"))
    if told.get("best"):
        text = yaml.safe_dump({"model": told["model"], "dataset": told["dataset"], **told["best"]["settings"]})
        write_whole(folder / "best.yaml", lambda path: path.write_text(text, encoding="utf-8"))
    if any(trial["evaluations"] for trial in told["trials"]):
        write_whole(folder / "search.png", lambda path: _picture(path, told))


def table(told: dict[str, Any]) -> list[str]:
    """Trials as a Markdown table, best first, the failed ones last with their reason."""
    keys = list(told["space"])
    lines = [f"| trial | {' | '.join(keys)} | valid {told['metric']} | evaluations | seconds | status |"]
    lines.append("|---" * (len(keys) + 5) + "|")
    for trial in best_first(told):
        values = " | ".join(_short(trial["settings"].get(key)) for key in keys)
        best = "" if trial["best"] is None else f"{trial['best']:.4f}"
        status = trial["status"] + (f": {trial['why']}" if trial["why"] else "")
        count, seconds = len(trial["evaluations"]), f"{trial['seconds']:.0f}"
        lines.append(f"| {trial['name']} | {values} | {best} | {count} | {seconds} | {status} |")
    if best_trial := told.get("best"):
        scores = ", ".join(
            f"{name.upper()} {value:.4f}" for name, value in best_trial["test"].items() if value is not None
        )
        lines += ["", f"Best on the valid rows: {best_trial['name']}. On the test rows, scored once: {scores}."]
    return lines


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _picture(path: Path, told: dict[str, Any]) -> None:
    """Left: each trial over its epochs. Right: what became of each value of each setting. The best stands out."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise SettingError(
            "the search's picture needs matplotlib; install it: pip install 'recbole-cora[tune]'"
        ) from None
    keys = list(told["space"])
    figure = Figure(figsize=(4.5 * (1 + len(keys)), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(keys), squeeze=False)[0]
    trials = [trial for trial in best_first(told) if trial["evaluations"]][::-1]  # the best on top
    looks = [{"color": "C0", "alpha": 0.5}] * (len(trials) - 1) + [{"color": "C1", "zorder": 3}]
    for trial, look in zip(trials, looks, strict=True):
        axes[0].plot(*zip(*trial["evaluations"], strict=True), marker=".", **look)
    axes[0].set(xlabel="epoch", ylabel=f"valid {told['metric']}", title=f"{told['model']} on {told['dataset']}")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, key in zip(axes[1:], keys, strict=True):
        values = [trial["settings"][key] for trial in trials]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        for trial, look in zip(trials, looks, strict=True):
            value, best = trial["settings"][key], trial["best"]
            if best is not None:
                axis.plot(value if numbers else str(value), best, "o", **look)
        if numbers and min(values) > 0 and max(values) / min(values) > 20:
            axis.set_xscale("log")
        axis.set(xlabel=key, ylabel=f"best valid {told['metric']}")
    figure.savefig(path, format="png", dpi=120)
