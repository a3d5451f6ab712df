"""Progress of long work: a bar on a terminal, elsewhere a log line a minute, and an estimate of the whole time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from types import TracebackType
from typing import NamedTuple

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recbole_cora.pace import Pace, duration, pace_text

log = logging.getLogger()

#: An estimate is given only for work that takes longer than this.
_LONG_SECONDS = 120.0
_SECONDS_BETWEEN_LINES = 60.0


class Breaks(NamedTuple):
    """Regular interruptions of the work, such as evaluations: what they are called, and the units between two."""

    name: str
    every: int


class Progress:
    """The progress of one piece of work; use it as a context manager.

    On a terminal it draws a bar. If standard error is redirected, it writes one line a minute to the log instead, since
    a file or a batch system's console shows a bar as one endless line. If the work takes longer than two minutes, it
    logs once, from its first measured units, how long all of it will take; if that was before the first break was
    measured, it logs a second estimate with the breaks.

    Args:
        title: what is being done.
        unit: what is counted, in the singular; "B" for bytes.
        total: number of units; None if unknown.
        done: units that an earlier process has done.
        show: False writes nothing at all.
        keep: leave the finished bar on the terminal.
        breaks: interruptions whose time is to be estimated too; each is announced by `pause`.
        remedy: ends the estimate; names what bounds or avoids the work.
        clock: returns seconds.

    Attributes:
        done: units so far.
        total, show: see above.
    """

    def __init__(
        self, title: str, unit: str, total: int | None = None, *, done: int = 0, show: bool = True, keep: bool = True,
        breaks: Breaks | None = None, remedy: str = "", clock: Callable[[], float] = perf_counter,
    ) -> None:  # fmt: skip
        self.total, self.done, self.show = total, done, show
        self._title, self._unit, self._breaks, self._remedy, self._clock = title, unit, breaks, remedy, clock
        self._draws = show and draws_bars()
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit=unit, unit_scale=unit == "B", leave=keep, dynamic_ncols=True,
            disable=not self._draws,
        )  # fmt: skip
        self._first = done
        self._pace = Pace(clock)
        self._started = self._line_time = clock()
        self._break_count, self._break_seconds = 0, 0.0
        self._estimates = 0
        self._wrote_lines = False
        self._note = ""
        self._contexts = ExitStack()

    def __enter__(self) -> Progress:
        if self._draws:
            self._contexts.enter_context(logging_redirect_tqdm())  # a log line must not cut the bar in two
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._contexts.close()
        if self._wrote_lines and kind is None:
            say(f"{self._title}: {self._count(self.done)} in {duration(self._clock() - self._started)}")

    def update(self, units: int = 1) -> None:
        """Count units that are done now."""
        self.done += units
        if not self.show:
            return
        self._pace.update(units)
        self._bar.update(units)
        if not self._estimates and self.seconds_left() is not None:
            self._estimate()
        self._write_line()

    def start_at(self, done: int) -> None:
        """Continue earlier work: its units are done, but took no time here."""
        self._first = self.done = done
        self._bar.initial = self._bar.n = self._bar.last_print_n = done
        self._bar.refresh()

    def note(self, text: str) -> None:
        """Show `text` behind the numbers from now on."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def set_total(self, total: int) -> None:
        """Correct the number of units."""
        self.total = self._bar.total = total

    def complete(self) -> None:
        """Show the work as complete, although it ended before its last unit."""
        self.set_total(self.done)
        self._bar.refresh()

    def refresh(self) -> None:
        """Draw the bar again, with the current time."""
        self._bar.refresh()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Measure a break: its time does not count for the units."""
        started = self._clock()
        yield
        seconds = self._clock() - started
        self._pace.pause(seconds)
        self._break_count += 1
        self._break_seconds += seconds
        if self.show and self._break_count == 1 and self._estimates:
            self._estimate()

    def seconds_left(self, done: int | None = None) -> float | None:
        """Return the estimated seconds for the rest, breaks included once one is measured; None while unknown.

        Args:
            done: the number of units after which the rest begins; by default those done so far.
        """
        done = self.done if done is None else done
        seconds = self._pace.seconds_per_unit()
        if seconds is None or self.total is None:
            return None
        breaks = self._breaks_after(done) * self._break_seconds / max(self._break_count, 1)
        return max(self.total - done, 0) * seconds + breaks

    def _breaks_after(self, done: int) -> int:
        if self._breaks is None or self.total is None:
            return 0
        return max(0, -(-(self.total - done) // self._breaks.every))

    def _estimate(self) -> None:
        """Log how long all of the work takes, or after the first break the rest, unless that is short."""
        done = self.done if self._estimates else self._first
        seconds, per_unit = self.seconds_left(done), self._pace.seconds_per_unit()
        self._estimates += 1
        if seconds is None or per_unit is None or self.total is None or seconds <= _LONG_SECONDS:
            return
        rest = "the remaining " if done else ""
        text = f"{self._title}: about {duration(seconds)} for {rest}{self._count(self.total - done)}"
        text += f" ({pace_text(per_unit, self._unit)})"
        if self._breaks is not None and (breaks := self._breaks_after(done)):
            if self._break_count:
                each = duration(self._break_seconds / self._break_count)
                text += f" and {breaks:,} {self._breaks.name} ({each} each)"
            else:
                text += f", without {breaks:,} {self._breaks.name}"
        say(text + (f"; {self._remedy}" if self._remedy else ""))

    def _write_line(self) -> None:
        """Write the minute's line, if no bar is drawn."""
        if self._draws or self._clock() - self._line_time < _SECONDS_BETWEEN_LINES:
            return
        self._line_time, self._wrote_lines = self._clock(), True
        of_total = "" if self.total is None else f" of {_number(self.total, self._unit)}"
        text = (
            f"{self._title}: {'' if self._unit == 'B' else self._unit + ' '}{_number(self.done, self._unit)}{of_total}"
        )
        if (per_unit := self._pace.seconds_per_unit()) is not None:
            text += f", {pace_text(per_unit, self._unit)}"
        if (left := self.seconds_left()) is not None:
            text += f", {duration(left)} left"
        say(text + (f"; {self._note}" if self._note else ""))

    def _count(self, units: int) -> str:
        return _number(units, self._unit) + ("" if self._unit == "B" else f" {self._unit}{'s' * (units != 1)}")


def say(text: str) -> None:
    """Log `text`, or write it to standard error if the command has no log."""
    if log.handlers:
        log.info(text)
    else:
        write_line(text)


def write_line(text: str) -> None:
    """Write `text` to standard error as a line of its own, above any bar."""
    tqdm.write(text, file=sys.stderr)


def _number(units: int, unit: str) -> str:
    return f"{units / 1e6:,.1f} MB" if unit == "B" else f"{units:,}"


def draws_bars() -> bool:
    """Return True if standard error can show a bar: a terminal, or a notebook, which is none but shows bars too."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")
