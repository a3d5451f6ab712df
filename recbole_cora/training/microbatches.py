"""Batches read in parts: shares of several processes, gradient accumulation, and smaller parts if memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_cora import processes
from recbole_cora.errors import CoraError
from recbole_cora.training import state as training_state

log = logging.getLogger()


class MicroBatches:
    """A replacement for a model's loss that computes a batch's loss and gradient part by part.

    Each process handles its share of the rows. If the loss is a mean over rows, as CoRA's is, loss and gradient are
    those of the whole batch. The parameters have their gradients when the call returns. It returns a scalar without a
    graph, which the trainer can log and call `backward` on.

    Args:
        loss: returns the scalar loss of a RecBole interaction.
        model: its gradients are cleared before a batch that ran out of memory is read again.
        parts: number of parts that a batch is split into.
        may_shrink: if memory runs out, use twice as many parts from then on, and read the batch again with the same
            random numbers.

    Raises:
        CoraError: out of memory on a single row, or on a part that may not shrink.
    """

    def __init__(self, loss: Callable[[Interaction], Tensor], model: nn.Module, parts: int, may_shrink: bool) -> None:
        self._loss, self._model, self._may_shrink = loss, model, may_shrink
        self.parts = parts

    def __call__(self, batch: Interaction) -> Tensor:
        rows = len(batch)
        batch = processes.share_of_rows(batch)
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
            # Done outside the handler, where the memory of the failed attempt can be freed.
            self.parts *= 2
            self._model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if states is not None:
                training_state.set_random_states(states)
            log.warning(f"out of memory with {size} rows at once: from now on a batch is split into {self.parts} parts")

    def _accumulate(self, batch: Interaction, rows: int, size: int) -> Tensor:
        total = 0.0
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            loss = self._loss(part) * (len(part) / rows)
            loss.backward()
            total += loss.item()
        return torch.tensor(processes.sum_gradients(self._model.parameters(), total), requires_grad=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise CUDA's out-of-memory error, and that of the CPU allocator, which is a plain RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def free_memory() -> None:
    """Free the memory of objects that are no longer used, above all the LLM of an earlier run."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
