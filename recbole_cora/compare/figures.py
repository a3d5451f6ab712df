"""Figures of a comparison, as SVG and PNG in `figures/` of its folder.

intervals  AUC and UAUC of each system with 95 % intervals and the values of the seeds; filled: ties with the best
cost       AUC over seconds per 1,000 scored pairs, with the Pareto front
curves     valid AUC over the epochs, one line per seed

Dots with intervals, not bars: a bar has to start at zero, and the differences would be invisible. Colours are those of
Okabe and Ito, which colour-blind readers can tell apart; fill and labels carry the same information, for print in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recbole_cora.compare.experiment import Experiment
from recbole_cora.compare.rows import Row, rows_of
from recbole_cora.compare.runs import Run
from recbole_cora.compare.significance import Significance, significance_of_runs
from recbole_cora.errors import SettingError
from recbole_cora.files import write_whole
from recbole_cora.statistics.bootstrap import METRICS

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#7F7F7F"
#: Panels beside one another in `curves`.
_COLUMNS = 4
#: Seconds per 1,000 pairs below which a system is drawn at this value: runs record hundredths of a second.
_LEAST_SECONDS = 1e-3
_LOOK = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "recbole-cora"}


def write_figures(experiment: Experiment, runs: Sequence[Run], out: Path) -> list[Path]:
    """Write the figures that the finished runs determine to the folder `out`, and return their SVG files.

    Raises:
        SettingError: matplotlib is not installed.
        WriteError: a file cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise SettingError("figures need matplotlib; install it: pip install 'recbole-cora[report]'") from None

    rows = rows_of(experiment, runs, {})
    finished = [row for row in rows if row.scores["test"]["auc"] is not None]
    first = next((result for run in runs if (result := run.result()) is not None), None)
    if not finished or first is None:
        return []
    significance = significance_of_runs(rows, runs, experiment.pairs)
    with mpl.rc_context(_LOOK):
        figures = {
            "intervals": _intervals(finished, significance),
            "cost": _cost(finished, significance, first["rows"]),
        }
        if (curves := _curves(runs)) is not None:
            figures["curves"] = curves
        for name, figure in figures.items():
            for suffix in ("svg", "png"):
                metadata = {"Date": None} if suffix == "svg" else {}  # the same result is the same file
                save = partial(figure.savefig, format=suffix, dpi=200, metadata=metadata)
                write_whole(out / f"{name}.{suffix}", save)
    return [out / f"{name}.svg" for name in figures]


def _intervals(rows: Sequence[Row], significance: Significance) -> Any:
    """Return one panel per metric: systems from the best AUC down, each with its mean, interval and seeds."""
    from matplotlib.figure import Figure

    def mean_auc(row: Row) -> float:
        cell = row.scores["test"]["auc"]
        return cell.mean if cell is not None else float("-inf")

    order = sorted(rows, key=mean_auc)
    figure = Figure(figsize=(7, 1.1 + 0.2 * len(order)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, metric in zip(panels, METRICS, strict=True):
        tied = significance.tied_with_best(metric)
        for place, row in enumerate(order):
            cell = row.scores["test"][metric]
            if cell is None:
                continue
            is_tied = row.system in tied
            colour = _BLUE if is_tied else _GREY
            bounds = significance.intervals.get(row.system, {}).get(metric)
            if bounds is not None:
                panel.plot(bounds, [place, place], color=colour, linewidth=1.2, zorder=1)
            panel.plot(cell.values, [place] * len(cell.values), "|", color="black", markersize=5, markeredgewidth=0.6)
            panel.plot(
                cell.mean, place, "o", color=colour, markersize=5, fillstyle="full" if is_tied else "none", zorder=3
            )
        panel.set_xlabel(f"test {metric.upper()}")
        panel.grid(axis="x", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_ylim(-0.6, len(order) - 0.4)
    panels[0].set_yticks(range(len(order)), [row.system for row in order])
    key = ["○ mean", "| one seed"]
    key += ["— 95 % interval over users"] if significance.intervals else []
    key += ["● best, or ties with it"] if significance.best else []
    figure.supxlabel("   ".join(key), fontsize=7)
    return figure


def _cost(rows: Sequence[Row], significance: Significance, counts: Mapping[str, int]) -> Any:
    """Return AUC over seconds per 1,000 pairs (logarithmic); systems on the Pareto front are filled and named.

    Args:
        counts: numbers of rows by split.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    points: list[tuple[float, float, str]] = []
    for row in rows:
        seconds, cell = row.seconds_per_1000_pairs(counts), row.scores["test"]["auc"]
        if seconds is not None and cell is not None:
            points.append((max(seconds, _LEAST_SECONDS), cell.mean, row.system))
    front = pareto_front(points)
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axis = figure.subplots()
    for x, y, name in points:
        bounds = significance.intervals.get(name, {}).get("auc")
        on_front = (x, y, name) in front
        colour = _ORANGE if on_front else _GREY
        if bounds is not None:
            axis.plot([x, x], bounds, color=colour, linewidth=0.8, alpha=0.7, zorder=1)
        axis.plot(x, y, "o", color=colour, markersize=5, fillstyle="full" if on_front else "none", zorder=3)
        if on_front or len(points) <= 10:
            axis.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axis.step([x for x, _, _ in front], [y for _, y, _ in front], where="post", color=_ORANGE, linewidth=1, zorder=2)
    axis.set_xscale("log")
    if points:  # at least a decade, so that ticks are powers of ten
        axis.set_xlim(min(x for x, _, _ in points) / 4, max(x for x, _, _ in points) * 8)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set(xlabel="seconds per 1,000 scored pairs", ylabel="test AUC")
    axis.set_title("filled: no system is both faster and better", fontsize=8)
    return figure


def pareto_front(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the points (cost, quality, name) that no other beats in one and equals or beats in both, by cost."""
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _curves(runs: Sequence[Run]) -> Any | None:
    """Return one panel per system with its valid AUC over the epochs, one line per seed; None if no run has epochs.

    The other systems' curves are grey in every panel: 26 systems in one panel could not be told apart.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for run in runs:
        result = run.result() or {}
        points = [(each["epoch"], each["auc"]) for each in result.get("curve", []) if each.get("auc") is not None]
        if len(points) > 1:
            curves.setdefault(run.system.name, []).append(points)
    if not curves:
        return None
    columns = min(_COLUMNS, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(0.7 + 1.6 * columns, 0.7 + 1.3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, name in zip(panels, curves, strict=False):
        for other, seeds in curves.items():
            for points in seeds:
                epochs, values = zip(*points, strict=True)
                is_own = other == name
                panel.plot(epochs, values, color=_BLUE if is_own else "0.87", linewidth=1, zorder=2 if is_own else 1)
        panel.set_title(name, fontsize=7)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("valid AUC", fontsize=8)
    return figure
