"""A step's batch in parts: shares of several processes, gradient accumulation, and ever smaller parts where memory runs
out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recbole_cora import processes
from recbole_cora.errors import CoraError
from recbole_cora.training import state as training_state

log = logging.getLogger()


class MicroBatches:
    """`loss(batch)` with its gradient, accumulated over parts of the batch; stands where a trainer calls a loss.

    Of several processes each takes its share of the rows. Where the loss is a mean over rows, as CoRA's is, value and
    gradient are those of the whole batch. The gradient is in place when the call returns: what it returns is a scalar
    without history, for the trainer to log and to call `backward` on.

    Args:
        loss: from a RecBole interaction to a scalar.
        model: whose gradients are cleared before a batch that did not fit is read again.
        parts: of a batch.
        may_shrink: on out-of-memory take twice as many parts from then on, beginning again with the same rows and the
            same random numbers.

    Raises:
        CoraError: one row alone does not fit, or a part does not and may not shrink.
    """

    def __init__(self, loss: Callable[[Any], Tensor], model: nn.Module, parts: int, may_shrink: bool) -> None:
        self._loss, self._model, self._may_shrink = loss, model, may_shrink
        self.parts = parts

    def __call__(self, batch: Any) -> Tensor:
        rows = len(batch)
        batch = processes.own_rows(batch)
        states = training_state.random_states() if self._may_shrink else None
        while True:
            size = max(1, -(-len(batch) // self.parts))
            try:
                return self._accumulate(batch, rows, size)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._may_shrink or size == 1:
                    remedy = "--gradient_checkpointing=True" if self._may_shrink else "--train_batch_size=auto"
                    raise CoraError(f"out of memory with {size} rows at once; try {remedy}") from None
            # Out of the handler: what it holds of the failed attempt is free now.
            self.parts *= 2
            self._model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if states is not None:
                training_state.set_random_states(states)
            log.warning(f"out of memory with {size} rows at once: from now on a batch is read in {self.parts} parts")

    def _accumulate(self, batch: Any, rows: int, size: int) -> Tensor:
        total = 0.0
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            loss = self._loss(part) * (len(part) / rows)
            loss.backward()
            total += loss.item()
        return torch.tensor(processes.add_gradients(self._model.parameters(), total), requires_grad=True)


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's own error, or the CPU allocator's, which is a RuntimeError like any other."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def free_memory() -> None:
    """Give back what nobody refers to any more, an LLM of a run before above all."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
