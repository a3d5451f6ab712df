"""The state of a training between two steps: with it a run that was stopped goes on as if it had not been.

A state is nested dicts, lists and tensors, in one safetensors file: the tensors as they are, the rest as JSON in its
header. Never pickle.
"""

from __future__ import annotations

import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.training.checkpoint import read, write

log = logging.getLogger()

_KIND = "recbole-cora-training"
_NAME = re.compile(r"training-(\d+)\.safetensors")


def save(folder: Path, step: int, state: dict[str, Any], identity: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps, whole or not at all, and remove all but the last `keep`.

    States of later steps, which were damaged and passed over, are removed too.

    Args:
        keep: how many to keep, this one included; it stays in any case, as a run without one cannot be resumed.

    Raises:
        WriteError: it cannot be written; the one before is as it was.
    """
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_packed(state, tensors))
    path = folder / f"training-{step:08d}.safetensors"
    header = {"identity": json.dumps(identity), "state": rest}
    try:
        write(path, _KIND, tensors, header)
    except WriteError as error:
        raise WriteError(f"{error}; {_last_good(folder)}") from None
    states = _all(folder)
    keeps = states[: states.index(path) + 1][-max(keep, 1) :]
    for other in states:
        if other not in keeps:
            other.unlink()
    return path


def latest(folder: Path) -> Path | None:
    """The folder's last state."""
    states = _all(folder)
    return states[-1] if states else None


def load(folder: Path, identity: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder's last state and its path; None: there is none.

    A damaged state is passed over for the one before it, with a warning that names both.

    Raises:
        CheckpointError: all states are damaged, or the state is foreign or of another training.
    """
    states = _all(folder)
    for number in reversed(range(len(states))):
        try:
            return states[number], _read(states[number], identity)
        except DamagedError as error:
            if number == 0:
                which = "its training state is" if len(states) == 1 else f"all {len(states)} training states are"
                raise CheckpointError(
                    f"cannot resume {folder}: {which} damaged ({error}); remove the folder and run again"
                ) from None
            log.warning(f"{states[number]} is damaged; resuming from the state before it, {states[number - 1]}")
    return None


def remove_all(folder: Path) -> None:
    """Remove the folder's states: of a finished run, they serve nothing."""
    for state in _all(folder):
        state.unlink()


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    tensors, header = read(path, _KIND, identity)
    state: dict[str, Any] = _unpacked(json.loads(header["state"]), tensors)
    return state


def random_states() -> dict[str, Any]:
    """Of every generator that a training draws from."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, inner, second = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(inner), second],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put the generators where `random_states` found them."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *others = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *others))
    version, inner, second = states["python"]
    random.setstate((version, tuple(inner), second))


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("training-*.safetensors") if _NAME.fullmatch(path.name))


def _last_good(folder: Path) -> str:
    good = latest(folder)
    return f"the last good one is {good}" if good else "there is none before it"


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved to `tensors`. A dict becomes pairs: its keys may be numbers."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(inner, tensors) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _unpacked(inner, tensors) for key, inner in value["dict"]}
