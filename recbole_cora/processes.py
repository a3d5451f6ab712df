"""Several processes as one run, as `accelerate launch` and `torchrun` start them.

Every process holds the whole model and sees the same batches. Each computes its share of every batch's rows. Gradients
are summed and scores gathered, so that weights, metrics and files are those of a single process. Only the main process
writes files.

The main process may train an encoder or a TALLRec for hours before a run begins, while the others wait for it. They
wait in a separate gloo group, which has no short timeout, keeps no GPU busy, and notices at once when a process is
gone. Gradients and scores go through the usual group with its usual timeout.

Without a launcher, nothing in this module has any effect.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import get_int_from_env
from torch import Tensor, nn

from recbole_cora.errors import CoraError, SettingError

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

_T = TypeVar("_T")

#: Environment variables with the number of processes: torchrun's, then those of mpirun's variants.
_COUNTS = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
_LONGEST_WAIT = timedelta(days=30)
#: The group for long waits; made by `join`.
_wait_group: dist.ProcessGroup | None = None


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Return True in the process that writes files and shows progress."""
    return rank() == 0


def join(on_cpu: bool) -> None:
    """Join the other processes, if there are any. Call it before anything is put on a device.

    Accelerate makes the group (nccl on GPUs, otherwise gloo) and selects this process's GPU. Under mpirun, which
    `accelerate launch` uses on CPUs, it copies mpirun's numbers to torchrun's environment variables, so `count` and
    `rank` are correct from here on.
    """
    global _wait_group
    if get_int_from_env(_COUNTS, 1) > 1 and not dist.is_initialized():
        PartialState(cpu=on_cpu)
    if count() > 1 and _wait_group is None:
        _wait_group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        atexit.register(_leave)


def _leave() -> None:
    """Destroy the gloo groups: if one is left when the interpreter exits, its threads sometimes abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group(None if dist.get_backend() == "gloo" else _wait_group)


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process run this context first; the others enter it once the main process has left it.

    Raises:
        CoraError: in the others, if the main process failed in this context; the same error if it was a CoraError.
    """
    if not is_main():
        _receive()
        yield
        return
    try:
        yield
    except BaseException as error:
        _send(error=error)
        raise
    _send()


def wait() -> None:
    """Wait until all processes have called this. Raises CoraError if one of them is gone."""
    if count() > 1:
        with _lost_process_as_error():
            dist.barrier(_wait_group)


def broadcast_from_main(make: Callable[[], _T]) -> _T:
    """Call `make` in the main process alone and return its value in all processes.

    Raises:
        CoraError: in the others, if the main process failed; the same error if it was a CoraError.
    """
    if not is_main():
        return _receive()  # type: ignore[return-value]
    try:
        value = make()
    except BaseException as error:
        _send(error=error)
        raise
    _send(value)
    return value


def _send(value: object = None, error: BaseException | None = None) -> None:
    """Send the other processes, which call `_receive`, a value to return or an error to raise."""
    if count() == 1:
        return
    if error is not None and not isinstance(error, CoraError):
        error = CoraError(f"the main process failed ({type(error).__name__}: {error}); see its own message")
    with _lost_process_as_error():
        dist.broadcast_object_list([value, error], group=_wait_group)


def _receive() -> object:
    message: list[object] = [None, None]
    with _lost_process_as_error():
        dist.broadcast_object_list(message, group=_wait_group)
    value, error = message
    if isinstance(error, CoraError):
        raise error
    return value


@contextmanager
def _lost_process_as_error() -> Iterator[None]:
    """Turn the RuntimeError that gloo raises when another process has closed its connections into a CoraError."""
    try:
        yield
    except RuntimeError as error:
        raise CoraError(
            f"a process of this run is gone ({str(error).strip().splitlines()[0]}); see its own message, then start "
            "all processes again (--resume=auto continues from the last saved state)"
        ) from None


def gather(value: _T) -> list[_T]:
    """Return every process's value, in order of rank."""
    if count() == 1:
        return [value]
    values: list[_T | None] = [None] * count()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place is filled now


def share_of_rows(batch: Interaction) -> Interaction:
    """Return this process's share of a batch's rows, which may be empty; each row is in exactly one share."""
    return batch[slice(rank(), None, count())] if count() > 1 else batch


def sum_gradients(parameters: Iterable[Tensor], loss: float) -> float:
    """Replace each gradient by its sum over all processes; return the sum of their losses."""
    if count() == 1:
        return loss
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        if parameter.grad is None:  # this process's share is empty
            parameter.grad = torch.zeros_like(parameter)
    grads = [parameter.grad for parameter in trainable if parameter.grad is not None]
    total = torch.tensor([loss], device=grads[0].device, dtype=grads[0].dtype)
    flat = torch.cat([total, *(grad.flatten() for grad in grads)])
    dist.all_reduce(flat)
    start = 1
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()
    return float(flat[0])


def share(model: nn.Module, seed: int, *, trains: bool = True) -> None:
    """Let all processes train and score a model together; each has its own copy.

    In evaluation mode, `model.predict` then computes each row in one process only, and returns all scores [N] in every
    process. From here on, each process draws its own random numbers from torch (dropout on its share of the rows), but
    the same ones from numpy and Python (negative samples of a batch that all processes see).

    Args:
        trains: False if the model will only be scored.

    Raises:
        SettingError: the model is to be trained and has batch normalisation, which would see only a process's share.
    """
    if count() == 1:
        return
    if trains and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise SettingError(
            f"{type(model).__name__} normalises over batches, which several processes share; use one process"
        )
    if rank():
        torch.manual_seed(seed + rank())
    predict: Callable[[Interaction], Tensor] = model.predict  # type: ignore[assignment]

    def predict_together(interaction: Interaction) -> Tensor:
        if model.training:  # called for a loss, on this process's share of the rows
            return predict(interaction)
        rows = share_of_rows(interaction)
        scores = predict(rows).float().reshape(-1).cpu() if len(rows) else torch.empty(0)
        all_scores = torch.empty(len(interaction))
        for number, part in enumerate(gather(scores)):
            all_scores[number :: count()] = part
        return all_scores.to(interaction[interaction.columns[0]].device)

    model.predict = predict_together  # type: ignore[assignment]
