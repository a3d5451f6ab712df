"""The state of training between two steps, from which a stopped run resumes as if it had never stopped.

A state is one safetensors file: tensors are stored as tensors, the rest as JSON in its header. It has no pickle.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.metrics import Metrics
from recbole_cora.training.batches import Position
from recbole_cora.training.checkpoint import Numbers, read, write

log = logging.getLogger()

_KIND = "recbole-cora-training"
_NAME = re.compile(r"training-(\d+)\.safetensors")

#: One entry per epoch: its number ("epoch"), the mean loss of its steps ("loss"), and its valid metrics if evaluated.
Curve = list[dict[str, float | None]]


@dataclass(frozen=True)
class RandomStates:
    """The states of every random generator that training draws from; `cuda` has one for each GPU."""

    torch: Tensor
    cuda: list[Tensor]
    numpy: list[Any]
    python: list[Any]


class LossSum(NamedTuple):
    """The sum of the losses of an epoch's steps so far, and the number of these steps."""

    total: float
    steps: int

    def mean(self) -> float | None:
        """Return the mean loss of a step; None before the first."""
        return self.total / self.steps if self.steps else None


class Best(NamedTuple):
    """The best evaluation so far: its score, its valid metrics, and the number of evaluations since."""

    score: float
    metrics: Metrics | None
    evaluations_since: int


@dataclass(frozen=True)
class TrainingState:
    """Everything that is needed to resume training. The file stores the fields under their names, in this order.

    Attributes:
        model: the trained weights.
        numbers: the plain numbers that the trained modules have besides their weights (see `checkpoint.numbers`).
        optimizer, schedule: their `state_dict`; `schedule` is None for a constant learning rate.
        random: one entry per process.
        batches: the position of the next batch.
        parts: number of parts that a batch is split into; None if batches are not split.
        epoch: the epoch's number, from 0.
        in_epoch: steps of that epoch so far.
        step: training steps so far.
        curve: the finished epochs.
        losses: the current epoch's losses.
        best: the best evaluation so far.
    """

    model: dict[str, Tensor]
    numbers: Numbers
    optimizer: dict[str, Any]
    schedule: dict[str, Any] | None
    random: list[RandomStates]
    batches: Position
    parts: int | None
    epoch: int
    in_epoch: int
    step: int
    curve: Curve
    losses: LossSum
    best: Best


def save(folder: Path, state: TrainingState, identity: Mapping[str, object], keep: int) -> Path:
    """Write a state atomically, and remove all states but the last `keep`.

    States of later steps are removed too: they were damaged, and training resumed from an earlier one.

    Args:
        keep: number of states to keep, including this one, which always stays, so that the run can be resumed.

    Raises:
        WriteError: the state cannot be written; earlier states are unchanged.
    """
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_pack(state, tensors))
    path = folder / f"training-{state.step:08d}.safetensors"
    header = {"identity": json.dumps(identity), "state": rest}
    try:
        write(path, _KIND, tensors, header)
    except WriteError as error:
        raise WriteError(f"{error}; {_last_good(folder)}") from None
    paths = _all(folder)
    paths_to_keep = paths[: paths.index(path) + 1][-max(keep, 1) :]
    for other in paths:
        if other not in paths_to_keep:
            other.unlink()
    return path


def latest(folder: Path) -> Path | None:
    """Return the path of the folder's last state; None if there is none."""
    paths = _all(folder)
    return paths[-1] if paths else None


def load(folder: Path, identity: Mapping[str, object]) -> tuple[Path, TrainingState] | None:
    """Read the folder's last state and return it with its path; None if there is none.

    If a state is damaged, the one before it is read instead, with a warning that names both.

    Raises:
        CheckpointError: all states are damaged, or the state is not ours or is for another identity.
    """
    paths = _all(folder)
    for number in reversed(range(len(paths))):
        try:
            return paths[number], _read(paths[number], identity)
        except DamagedError as error:
            if number == 0:
                which = "its training state is" if len(paths) == 1 else f"all {len(paths)} training states are"
                raise CheckpointError(
                    f"cannot resume {folder}: {which} damaged ({error}); remove the folder and run again"
                ) from None
            log.warning(f"{paths[number]} is damaged; resuming from the state before it, {paths[number - 1]}")
    return None


def remove_all(folder: Path) -> None:
    """Remove the folder's states; a finished run does not need them."""
    for path in _all(folder):
        path.unlink()


def _read(path: Path, identity: Mapping[str, object]) -> TrainingState:
    tensors, header = read(path, _KIND, identity)
    fields: dict[str, Any] = _unpack(json.loads(header["state"]), tensors)
    fields["random"] = [RandomStates(**states) for states in fields["random"]]
    fields["batches"] = Position(**fields["batches"])
    fields["losses"], fields["best"] = LossSum(*fields["losses"]), Best(*fields["best"])
    return TrainingState(**fields)


def random_states() -> RandomStates:
    """Return the current states of all generators."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, inner, second = random.getstate()
    return RandomStates(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        numpy=[kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(place), int(has_gauss), float(gauss)],
        python=[version, list(inner), second],
    )


def set_random_states(states: RandomStates) -> None:
    """Restore the generators' states."""
    torch.set_rng_state(states.torch)
    if states.cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states.cuda)
    kind, keys, *others = states.numpy
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *others))
    version, inner, second = states.python
    random.setstate((version, tuple(inner), second))


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("training-*.safetensors") if _NAME.fullmatch(path.name))


def _last_good(folder: Path) -> str:
    path = latest(folder)
    return f"the last good state is {path}" if path else "there is no earlier state"


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, with its tensors moved to `tensors`.

    A dict becomes a list of pairs, since its keys may be numbers; a dataclass is stored as the dict of its fields.
    """
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {"dict": [[key, _pack(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(inner, tensors) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value that `_pack` was given; tuples and dataclasses come back as lists and dicts."""
    if isinstance(value, list):
        return [_unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _unpack(inner, tensors) for key, inner in value["dict"]}
