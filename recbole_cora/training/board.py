"""RecBole's TensorBoard writer, on which no run depends: where its files cannot be written, it is dropped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger()


class Board:
    """A TensorBoard writer that warns once, and then ignores all calls, where the system refuses to write.

    Args:
        writer: RecBole's.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            if self._writer is None:
                return
            try:
                getattr(self._writer, name)(*args, **options)
            except OSError as error:
                log.warning(f"cannot write ./log_tensorboard ({error.strerror}); the run continues without it")
                self._writer = None

        return call


def silence_threads() -> None:
    """Print no traceback of a TensorBoard thread that the system refuses to write: the writer's next call raises it."""
    before = threading.excepthook
    if getattr(before, "is_silent_for_tensorboard", False):
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            before(args)

    hook.is_silent_for_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = hook
