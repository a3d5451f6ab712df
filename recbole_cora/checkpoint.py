"""Checkpoints: one safetensors file that holds what was trained, and in its header what it was trained for.

No pickle is ever read: a file that is not safetensors is refused on its first bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_cora.errors import CheckpointError
from recbole_cora.files import write_whole

WEIGHTS = "model.safetensors"
_FORMAT = "recbole-cora/1"


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """State of what a model says is `trained` in it, else its whole state."""
    return dict(_trained(model).state_dict())


def numbers(model: nn.Module) -> dict[str, dict[str, int | float]]:
    """Plain numbers that the trained modules keep beside their state, by module: a counter of steps, for one."""
    found = {
        name: {key: value for key, value in vars(module).items() if type(value) in (int, float)}
        for name, module in _trained(model).named_modules()
    }
    return {name: own for name, own in found.items() if own}


def put_numbers(model: nn.Module, saved: dict[str, dict[str, int | float]]) -> None:
    """Put back what `numbers` found."""
    for name, module in _trained(model).named_modules():
        vars(module).update(saved.get(name, {}))


def _trained(model: nn.Module) -> nn.Module:
    part: nn.Module = getattr(model, "trained", model)
    return part


def save(path: Path, model: nn.Module, identity: dict[str, Any]) -> None:
    """Write the trained weights and the identity of what they were trained for, whole or not at all."""
    # clone: safetensors refuses tensors that share memory, as tied weights do
    state = {k: v.detach().cpu().clone().contiguous() for k, v in trained_state(model).items()}
    write(path, state, {"format": _FORMAT, "identity": json.dumps(identity)})


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises WriteError."""

    def fill(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:  # how it tells of a full disk
            raise OSError(str(error)) from None

    write_whole(path, fill)


def load(path: Path, model: nn.Module, identity: dict[str, Any]) -> None:
    """Load weights into `model`.

    Args:
        identity: what the model is for now; every entry must equal the file's.

    Raises:
        CheckpointError: no file, a pickle, a truncated or foreign file, another identity, missing or unexpected
            weights, weights of another shape.
    """
    put(path, model, read(path, _FORMAT, identity)[0])


def put(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put trained weights from `path` into `model`. Raises CheckpointError where they are of another form."""
    here = trained_state(model)
    missing, unexpected = sorted(set(here) - set(state)), sorted(set(state) - set(here))
    if missing or unexpected:
        raise CheckpointError(f"{path} does not fit this model: missing {missing[:3]}, unexpected {unexpected[:3]}")
    for name, tensor in here.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{path}: '{name}' has shape {list(state[name].shape)}, this model's has {list(tensor.shape)}; "
                "use the settings it was trained with"
            )
    _trained(model).load_state_dict(state)


def read(path: Path, form: str, identity: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file of ours; raises CheckpointError as `load` does."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path} ({error.strerror}); give the folder of an earlier run"
        ) from None
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when read; refused unread: only safetensors are taken"
        )
    if start[8:] != b"{":
        raise CheckpointError(f"{path} is not a safetensors file; give the folder of an earlier run")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); use another checkpoint") from None
    if header.get("format") != form:
        raise CheckpointError(f"{path} was not written by recbole-cora; give the folder of an earlier run")
    saved = json.loads(header["identity"])
    for key, value in identity.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"{path} was trained for another {key} ({saved.get(key)!r}, here {value!r}); "
                "use the same one, or train again"
            )
    return state, header
