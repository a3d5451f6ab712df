"""Signals that stop training between two steps."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

log = logging.getLogger()


class Stoppable(Protocol):
    """A trainer that stops before its next step once `stopping` holds a signal's number; 0 lets it continue."""

    stopping: int


@contextmanager
def stop_between_steps(trainer: Stoppable) -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Ctrl-C ask the trainer to stop; a second one has its usual effect and ends the process.

    A second SIGHUP is ignored: a closed terminal sends one, and its shell sends another. A signal that was ignored
    before stays ignored, as SIGHUP is under nohup. The handlers are restored at the end.
    """

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        trainer.stopping = number
        for each, handler in handlers_before.items():
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else handler)
        log.warning(f"{signal.Signals(number).name}: stopping after this step")

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers only in the main thread
        yield
        return
    signals = [s for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    handlers_before = {each: signal.signal(each, ask_to_stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in handlers_before.items():
            signal.signal(each, handler)
