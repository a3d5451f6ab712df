"""Wall-clock seconds of the steps of a run."""

from __future__ import annotations

from time import perf_counter


class Laps:
    """Time consecutive steps: a lap lasts from the end of the previous one.

    Attributes:
        seconds: wall-clock seconds by step, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._lap_start = perf_counter()

    def end(self, step: str) -> None:
        """End the current lap, which timed `step`."""
        now = perf_counter()
        self.seconds[step] = now - self._lap_start
        self._lap_start = now

    def add(self, laps: Laps) -> None:
        """Add the laps of steps that timed themselves, and start the next lap now."""
        self.seconds |= laps.seconds
        self._lap_start = perf_counter()

    def total(self) -> float:
        """Return the seconds since the first lap started."""
        return perf_counter() - self._start
