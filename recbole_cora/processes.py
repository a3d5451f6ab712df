"""Several processes as one run, as `accelerate launch` and `torchrun` start them.

Every process holds the whole model and walks through the same batches; of each it computes its share of the rows.
Gradients are summed and scores gathered, so that weights, metrics and files are those of one process. One of them
writes.

The main process may train an encoder or a TALLRec for hours before a run begins, while the others wait for it. They
wait in a group of processes of their own, on gloo: it has no timeout of minutes, keeps no GPU busy, and notices at once
when a process is gone. Gradients and scores go through the usual group with its usual timeout.

Without a launcher everything here is as if this module were not.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import get_int_from_env
from torch import Tensor, nn

from recbole_cora.errors import CoraError, SettingError

#: Where launchers say how many processes there are: torchrun, then mpirun's kinds (one of which may have started it).
_COUNTS = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
_LONGEST_WAIT = timedelta(days=30)
#: The group that long waits are in; made by `join`.
_waiting: dist.ProcessGroup | None = None


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This one's number."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that writes files and shows progress."""
    return rank() == 0


def join(on_cpu: bool) -> None:
    """Join the others, if there are any; before anything is put on a device.

    Accelerate makes the group (nccl on GPUs, gloo else) and takes this process's own GPU. Of mpirun, which `accelerate
    launch` uses on CPUs, it puts the numbers where torchrun has them: `count` and `rank` are right from here on.
    """
    global _waiting
    if get_int_from_env(_COUNTS, 1) > 1 and not dist.is_initialized():
        PartialState(cpu=on_cpu)
    if count() > 1 and _waiting is None:
        _waiting = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        atexit.register(_leave)


def _leave() -> None:
    """End the groups on gloo: the threads of one that is left when the interpreter ends abort the process at times."""
    if dist.is_initialized():
        dist.destroy_process_group(None if dist.get_backend() == "gloo" else _waiting)


@contextmanager
def main_first() -> Iterator[None]:
    """The others wait until the main process has left this context: it makes what they then find.

    Raises:
        CoraError: in the others, where the main process failed in this context (its own CoraError, if it was one).
    """
    if not is_main():
        _received()
        yield
        return
    try:
        yield
    except BaseException as error:
        _send(error=error)
        raise
    _send()


def wait() -> None:
    """Wait until all processes are here. Raises CoraError where one is gone."""
    if count() > 1:
        with _noticing_the_gone():
            dist.barrier(_waiting)


def made_by_main(make: Callable[[], Any]) -> Any:
    """Return in all processes what `make` returns in the main process.

    Raises:
        CoraError: in the others, where the main process failed (its own CoraError, if it was one).
    """
    if not is_main():
        return _received()
    try:
        value = make()
    except BaseException as error:
        _send(error=error)
        raise
    _send(value)
    return value


def _send(value: Any = None, error: BaseException | None = None) -> None:
    """From the main process to `_received` in the others: a value, or the error to raise there."""
    if count() == 1:
        return
    if error is not None and not isinstance(error, CoraError):
        error = CoraError(f"the main process failed ({type(error).__name__}: {error}); see its own message")
    with _noticing_the_gone():
        dist.broadcast_object_list([value, error], group=_waiting)


def _received() -> Any:
    box: list[Any] = [None, None]
    with _noticing_the_gone():
        dist.broadcast_object_list(box, group=_waiting)
    value, error = box
    if error is not None:
        raise error
    return value


@contextmanager
def _noticing_the_gone() -> Iterator[None]:
    """gloo raises RuntimeError where another process has closed its connections."""
    try:
        yield
    except RuntimeError as error:
        raise CoraError(
            f"a process of this run is gone ({str(error).strip().splitlines()[0]}); see its own message, then start "
            "all again (--resume=auto continues a training from its last saved state)"
        ) from None


def gathered(value: Any) -> list[Any]:
    """Every process's value, in order."""
    if count() == 1:
        return [value]
    boxes: list[Any] = [None] * count()
    dist.all_gather_object(boxes, value)
    return boxes


def own_rows(batch: Any) -> Any:
    """This process's share of a batch's rows; every row is in one share. It may be empty."""
    return batch[slice(rank(), None, count())] if count() > 1 else batch


def add_gradients(parameters: Iterable[Tensor], loss: float) -> float:
    """Put the sum of all processes' gradients in place; returns the sum of their losses."""
    if count() == 1:
        return loss
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learned:
        if parameter.grad is None:  # an empty share
            parameter.grad = torch.zeros_like(parameter)
    grads = [parameter.grad for parameter in learned if parameter.grad is not None]
    total = torch.tensor([loss], device=grads[0].device, dtype=grads[0].dtype)
    flat = torch.cat([total, *(grad.flatten() for grad in grads)])
    dist.all_reduce(flat)
    start = 1
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()
    return float(flat[0])


def share(model: Any, seed: int, *, trains: bool = True) -> None:
    """Make a model that all processes hold one that they train and score together, where there are several.

    Its `predict`, while it is not training, computes each row in one process and gives all scores [N] to all. From here
    on each process draws its own random numbers from torch (dropout of its own rows), and the same from numpy and
    Python (negative samples of a batch that all walk through).

    Args:
        trains: whether it is trained, too.

    Raises:
        SettingError: it is trained and normalises over batches, of which each process would see its share alone.
    """
    if count() == 1:
        return
    if trains and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise SettingError(f"{type(model).__name__} normalises over batches, which processes share; use one process")
    if rank():
        torch.manual_seed(seed + rank())
    predict: Callable[[Any], Tensor] = model.predict

    def together(interaction: Any) -> Tensor:
        if model.training:  # a loss is made of it, of rows that are shared already
            return predict(interaction)
        own = own_rows(interaction)
        scores = predict(own).float().reshape(-1).cpu() if len(own) else torch.empty(0)
        found = torch.empty(len(interaction))
        for number, part in enumerate(gathered(scores)):
            found[number :: count()] = part
        return found.to(interaction[interaction.columns[0]].device)

    model.predict = together
