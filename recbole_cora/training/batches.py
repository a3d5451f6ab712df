"""The training batches, in an order that a resumed run can continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_cora.progress import Progress


@dataclass(frozen=True)
class Position:
    """The position of the next training batch. The names of the fields are part of the training state's file format.

    Attributes:
        order: state of the loader's generator when the pass began; None before the first pass, or without a generator.
        taken: number of the pass's batches before the next one.
    """

    order: Tensor | None
    taken: int


class Batches:
    """The train loader, iterated in epochs of `steps` batches; each epoch continues where the last one stopped.

    The loader's generator draws the order of each pass over the rows. Its state at the start of the pass and the number
    of batches since give the position, from which another process can continue. RecBole's loader of knowledge graphs
    has no such generator, so a resumed run starts its epoch again.

    Args:
        loader: RecBole's train loader.
        steps: batches per epoch; None makes each epoch one pass.
        before_batch: called before each batch with the number of batches so far in the epoch; False ends the epoch.
        bar: progress bar, advanced once per batch.

    Attributes:
        current: the batch returned last.
    """

    def __init__(
        self, loader: AbstractDataLoader, steps: int | None, before_batch: Callable[[int], bool], bar: Progress
    ) -> None:
        self._loader, self._steps, self._before_batch, self._bar = loader, steps, before_batch, bar
        self._pass: Iterator[Interaction] | None = None
        self._order: Tensor | None = None
        self._taken = 0
        self._kind: object = None  # `loader.state`: the kind of batches that RecBole's knowledge loader returns
        self._first = 0  # number of the next epoch's first batch
        self.current: Interaction | None = None

    def __len__(self) -> int:
        return self._steps or len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def position(self) -> Position:
        """Return the position of the next batch."""
        return Position(self._order, self._taken)

    def seek(self, position: Position, first: int) -> int:
        """Go to the position of batch number `first` of its epoch.

        Returns:
            `first`, or 0 if the loader cannot seek and the epoch starts again.
        """
        if position.order is None:
            return 0
        self._first = first
        self._loader.generator.set_state(position.order)
        self._begin_pass()
        for _ in range(position.taken):
            self._next()
        return first

    def __iter__(self) -> Iterator[Interaction]:
        first, self._first = self._first, 0
        kind = getattr(self._loader, "state", None)
        if (self._steps is None and first == 0) or kind != self._kind:
            self._pass = None  # this epoch begins with a new pass
        self._kind = kind
        for number in range(first, len(self)):
            if not self._before_batch(number):
                return
            self.current = self._next()
            if self.current is None:
                return
            yield self.current
            self._bar.update()

    def _next(self) -> Interaction | None:
        """Return the next batch; None if each epoch is one pass and this pass is over."""
        if self._pass is None:
            self._begin_pass()
        batch = next(self._pass, None)  # type: ignore[arg-type]
        if batch is None and self._steps is not None:
            self._begin_pass()
            batch = next(self._pass)  # type: ignore[arg-type]
        self._taken += 1
        return batch

    def _begin_pass(self) -> None:
        generator = getattr(self._loader, "generator", None)
        self._order = generator.get_state() if generator is not None else None
        self._pass, self._taken = iter(self._loader), 0
