"""The statistics of a report as Markdown, and the result in one sentence per metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from recbole_cora.compare.rows import Row
from recbole_cora.compare.significance import ALPHA, Comparison, Significance
from recbole_cora.statistics.bootstrap import METRICS, RESAMPLES, Interval


def sentences(significance: Significance, rows: Sequence[Row], counts: Mapping[str, int]) -> list[str]:
    """Return one sentence per metric: who is best, by how much, how surely, and at what price.

    Args:
        counts: numbers of rows by split.
    """
    return [text for metric in METRICS if (text := _sentence(significance, rows, metric, counts))]


def _sentence(significance: Significance, rows: Sequence[Row], metric: str, counts: Mapping[str, int]) -> str:
    """Return the sentence about one metric; "" if the best was compared with no other system."""
    best = significance.best.get(metric, "")
    against = [c for name in significance.intervals if (c := significance.between(metric, best, name)) is not None]
    if not against:
        return ""
    against.sort(key=lambda each: each.difference)
    by_name = {row.system: row for row in rows}
    mean = by_name[best].scores["test"][metric]
    text = f"{best} has the highest {metric.upper()}" + ("" if mean is None else f", {_number(mean.mean)}")
    tied, beaten = [each.second for each in against if each.tie], [each for each in against if not each.tie]
    if tied:
        text += f", but ties with {_enumerate(tied)}: it is {_finding(against[0], against[0].second)}"
        text += f", and {_finding(beaten[0], f'{beaten[0].second}, the next that does not tie')}" if beaten else ""
    else:
        text += f": it is {_finding(against[0], f'{against[0].second}, the next')}"
    prices = [_price(by_name[name], counts) for name in (best, against[0].second)]
    return f"{text}, at {prices[0]} against {prices[1]} of {against[0].second}."


def _finding(comparison: Comparison, other: str) -> str:
    low, high = _signed(comparison.low), _signed(comparison.high)
    p = _p(comparison.p_holm)
    p = p if p.startswith("<") else f"= {p}"
    return (
        f"{_number(comparison.difference)} above {other} (95 % interval {low} to {high}, p {p} after Holm's correction)"
    )


def _price(row: Row, counts: Mapping[str, int]) -> str:
    """Return what a system costs: seconds per 1,000 scored pairs, and trained parameters."""
    seconds = row.seconds_per_1000_pairs(counts)
    parameters = f"{row.cost.trainable_parameters if row.cost else 0:,} trained parameters"
    if seconds is None:
        return parameters
    return f"{seconds:.2g} s per 1,000 pairs and {parameters}"


def markdown(significance: Significance, rows: Sequence[Row], verdict: Sequence[str]) -> list[str]:
    """Return the lines of the section "Is the difference real?"; `verdict` holds its sentences."""
    lines = ["", "## Is the difference real?", ""]
    if significance.problem:
        return [*lines, f"No statistics: {significance.problem}."]
    if significance.intervals:
        lines += [*(f"- {sentence}" for sentence in verdict), *([""] if verdict else [])]
        lines += _explanation(significance)
        lines += ["", *_systems(significance, [row for row in rows if row.system in significance.intervals])]
    if significance.pairs and significance.intervals:
        lines += ["", *_pairs(significance)]
    if significance.without:
        lines += ["", _without(significance.without)]
    return lines if len(lines) > 3 else []


def _explanation(significance: Significance) -> list[str]:
    return [
        f"95 % intervals: {RESAMPLES:,} resamples of the {significance.users:,} test users with all their rows, the "
        "same for all systems, of the mean over seeds. Spread over seeds: ± in the first table.",
        f"p: AUC by the paired bootstrap, UAUC by a permutation test over users, after Holm's correction for all "
        f"{len(significance.comparisons)} tests. Bold: a difference (p < {_decimal(ALPHA, 2)}); the others are ties.",
    ]


def _systems(significance: Significance, rows: Iterable[Row]) -> list[str]:
    """Return the table of intervals and of differences to the best system."""
    headings = [f"{m.upper()}{what}" for m in METRICS for what in (" interval", " minus the best's", " p")]
    lines = [f"| system | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for row in rows:
        cells: list[str] = []
        for metric in METRICS:
            best = significance.best.get(metric)
            compared = None if best is None else significance.between(metric, row.system, best)
            cells.append(_interval(significance.intervals[row.system][metric]))
            cells += ["the best", ""] if row.system == best else _comparison(compared)
        lines.append(f"| {_escape(row.system)} | {' | '.join(cells)} |")
    return lines


def _pairs(significance: Significance) -> list[str]:
    """Return the table of the pairs that the experiment names."""
    headings = [f"{m.upper()}{what}" for m in METRICS for what in (" difference", " p")]
    lines = [f"| pair | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for first, second in significance.pairs:
        cells = [cell for m in METRICS for cell in _comparison(significance.between(m, first, second))]
        lines.append(f"| {_escape(first)} minus {_escape(second)} | {' | '.join(cells)} |")
    return lines


def _comparison(comparison: Comparison | None) -> list[str]:
    """Return two cells: the difference with its interval, bold unless it is a tie, and the p-value."""
    if comparison is None:
        return ["", ""]
    bounds = Interval(comparison.low, comparison.high)
    difference = f"{_signed(comparison.difference)} {_interval(bounds, signed=True)}"
    p = _p(comparison.p_holm)
    return [difference, f"{p}, tie"] if comparison.tie else [f"**{difference}**", p]


def _without(reasons: Mapping[str, str]) -> str:
    """Return the line about systems without statistics."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    return f"Without statistics: {'; '.join(f'{_enumerate(names)} ({why})' for why, names in by_reason.items())}."


def _interval(bounds: Interval | None, signed: bool = False) -> str:
    show = _signed if signed else _number
    return "" if bounds is None else f"[{show(bounds.low)}, {show(bounds.high)}]"


def _p(value: float) -> str:
    if value < 0.001:
        return "< .001"
    return _decimal(value, 3)


def _number(value: float) -> str:
    return _decimal(value, 4)


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_decimal(abs(value), 4)}"


def _decimal(value: float, places: int) -> str:
    return f"{value:.{places}f}".removeprefix("0")


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _escape(name: str) -> str:
    return name.replace("|", r"\|")  # an unescaped one would end the cell
