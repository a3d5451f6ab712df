"""RecBole's TensorBoard writer, made optional: if its files cannot be written, the run continues without them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger()


class Board:
    """A TensorBoard writer that, if the system refuses to write, warns once and then ignores all calls.

    Args:
        writer: RecBole's writer.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer: SummaryWriter | None = writer

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: object, **options: object) -> None:
            if self._writer is None:
                return
            try:
                getattr(self._writer, name)(*args, **options)
            except OSError as error:
                log.warning(f"cannot write ./log_tensorboard ({error.strerror}); the run continues without it")
                self._writer = None

        return call


def silence_threads() -> None:
    """Print no traceback if a TensorBoard thread cannot write; the writer's next call raises the same error."""
    original = threading.excepthook
    if getattr(original, "is_silent_for_tensorboard", False):
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            original(args)

    hook.is_silent_for_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = hook
