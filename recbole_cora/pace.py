"""How long one unit of work takes, and words for it."""

from __future__ import annotations

from collections.abc import Callable

#: The first update warms up (memory, caches, compiled kernels) and does not count, unless it alone took this long.
_WARM_SECONDS = 30.0
#: The pace is known after this many updates and seconds, or after `_WARM_SECONDS`.
_LEAST_UPDATES, _LEAST_SECONDS = 3, 5.0


class Pace:
    """The mean seconds per unit so far, without warm-up and pauses.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = self._last = clock()
        self._paused = 0.0  # seconds since the start
        self._units = self._updates = 0
        self._warm = False

    def update(self, units: int) -> None:
        """Count units that were done since the last update."""
        self._last = self._clock()
        if not self._warm:
            self._warm = True
            if self._seconds() < _WARM_SECONDS:
                self._start, self._paused = self._last, 0.0
                return
        self._units += units
        self._updates += 1

    def pause(self, seconds: float) -> None:
        """Leave out the seconds that have just passed."""
        self._paused += seconds
        self._last += seconds  # so that a pause after the last update is not subtracted from its units

    def seconds_per_unit(self) -> float | None:
        """Return the mean seconds per unit; None until enough is measured."""
        seconds = self._seconds()
        enough = seconds >= _WARM_SECONDS or (self._updates >= _LEAST_UPDATES and seconds >= _LEAST_SECONDS)
        return seconds / self._units if self._units and enough else None

    def _seconds(self) -> float:
        return self._last - self._start - self._paused


def duration(seconds: float) -> str:
    """Return a duration in its one or two largest units, such as "5 h 40 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours = round(minutes / 60)
    if minutes < 60:
        return f"{minutes} min"
    parts = ((minutes // 60, "h"), (minutes % 60, "min")) if hours < 48 else ((hours // 24, "d"), (hours % 24, "h"))
    return " ".join(f"{count} {name}" for count, name in parts if count)


def pace_text(seconds: float, unit: str) -> str:
    """Return the pace of a unit in words; bytes ("B") in MB.

    Args:
        seconds: seconds per unit.
    """
    if unit == "B":
        return f"{1e-6 / seconds:.1f} MB a second"
    if seconds < 0.1:
        return f"{1 / seconds:,.0f} {unit}s a second"
    return f"{duration(seconds) if seconds >= 99.95 else f'{seconds:.{1 if seconds >= 1 else 2}f} s'} a {unit}"
