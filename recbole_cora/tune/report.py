"""The report of a search: `trials.json`, `trials.md`, `best.yaml` and `search.png`."""

from __future__ import annotations

from pathlib import Path

import yaml

from recbole_cora.errors import SettingError
from recbole_cora.files import write_json, write_whole
from recbole_cora.tune.records import SearchReport


def write_report(folder: Path, report: SearchReport) -> None:
    """Write all four files; `best.yaml` needs a best trial, and `search.png` an evaluation."""
    search = report.search
    write_json(folder / "trials.json", report.as_json())
    page = "\n".join(table(report)) + "\n"
    write_whole(folder / "trials.md", lambda path: path.write_text(page, encoding="utf-8"))
    if report.best is not None:
        text = yaml.safe_dump({"model": search.model, "dataset": search.dataset, **report.best.settings})
        write_whole(folder / "best.yaml", lambda path: path.write_text(text, encoding="utf-8"))
    if any(trial.evaluations for trial in report.trials):
        write_whole(folder / "search.png", lambda path: _draw_picture(path, report))


def table(report: SearchReport) -> list[str]:
    """Return the lines of a Markdown table: trials from best to worst, failed ones last with their reason."""
    keys = list(report.search.space)
    lines = [f"| trial | {' | '.join(keys)} | valid {report.search.metric} | evaluations | seconds | status |"]
    lines.append("|---" * (len(keys) + 5) + "|")
    for trial in report.best_first():
        values = " | ".join(_short(trial.settings.get(key)) for key in keys)
        best = "" if trial.best is None else f"{trial.best:.4f}"
        status = trial.status + (f": {trial.why}" if trial.why else "")
        lines.append(
            f"| {trial.name} | {values} | {best} | {len(trial.evaluations)} | {trial.seconds:.0f} | {status} |"
        )
    if report.best is not None:
        scores = ", ".join(
            f"{name.upper()} {value:.4f}" for name, value in report.best.test.items() if value is not None
        )
        lines += ["", f"Best on the valid rows: {report.best.name}. On the test rows, scored once: {scores}."]
    return lines


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw_picture(path: Path, report: SearchReport) -> None:
    """Plot each trial's metric over its epochs and, for each setting, its best metric over the setting's value.

    The best trial has its own colour.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise SettingError(
            "the search's picture needs matplotlib; install it: pip install 'recbole-cora[tune]'"
        ) from None
    search, keys = report.search, list(report.search.space)
    figure = Figure(figsize=(4.5 * (1 + len(keys)), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(keys), squeeze=False)[0]
    trials = [trial for trial in report.best_first() if trial.evaluations][::-1]  # the best is drawn on top
    looks = [{"color": "C0", "alpha": 0.5}] * (len(trials) - 1) + [{"color": "C1", "zorder": 3}]
    for trial, look in zip(trials, looks, strict=True):
        axes[0].plot(*zip(*trial.evaluations, strict=True), marker=".", **look)
    axes[0].set(xlabel="epoch", ylabel=f"valid {search.metric}", title=f"{search.model} on {search.dataset}")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, key in zip(axes[1:], keys, strict=True):
        values = [trial.settings[key] for trial in trials]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        all_numbers = len(numbers) == len(values)
        for trial, value, look in zip(trials, values, looks, strict=True):
            if trial.best is not None:
                axis.plot(value if all_numbers else str(value), trial.best, "o", **look)
        if all_numbers and min(numbers) > 0 and max(numbers) / min(numbers) > 20:
            axis.set_xscale("log")
        axis.set(xlabel=key, ylabel=f"best valid {search.metric}")
    figure.savefig(path, format="png", dpi=120)
