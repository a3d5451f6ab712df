"""Checkpoints: one safetensors file that holds what was trained, and in its header what it was trained for.

No pickle is ever read: a file that is not safetensors is refused on its first bytes. The header also holds a checksum
of all the rest: a file in which a bit has changed is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_cora.errors import CheckpointError, DamagedError
from recbole_cora.files import write_whole

WEIGHTS = "model.safetensors"
_KIND = "recbole-cora"
#: Formats that are read, after the kind of file: /2 has a checksum, /1 (until version 0.1.0) has none.
_CHECKED, _UNCHECKED = "/2", "/1"
#: The longest header of a safetensors file, by that library; in bytes.
_LONGEST_HEADER = 100_000_000


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
    write(path, _KIND, state, {"identity": json.dumps(identity)})


def write(path: Path, kind: str, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file with its format and checksum in the header, whole or not at all. Raises WriteError."""
    header = {**header, "format": kind + _CHECKED}
    header["sha256"] = _checksum(tensors, header)

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
        CheckpointError: no file, a pickle, a truncated, changed or foreign file, another identity, missing or
            unexpected weights, weights of another shape, NaN or infinite weights.
    """
    put(path, model, read(path, _KIND, identity)[0])


def put(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put trained weights from `path` into `model`.

    Raises:
        CheckpointError: they are of another form, or not finite; the model is as it was.
    """
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
    parameters = {name for name, _ in _trained(model).named_parameters()}
    for name, tensor in state.items():
        # An infinite buffer may be a mask.
        if tensor.isnan().any() or (name in parameters and tensor.isinf().any()):
            raise CheckpointError(
                f"{path}: '{name}' holds NaN or infinite weights: that training diverged; train again with a lower "
                "--learning_rate, or use another checkpoint"
            )
    _trained(model).load_state_dict(state)


def read(path: Path, kind: str, identity: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and header of a safetensors file that `write` has written.

    Raises:
        DamagedError: it is truncated or has changed.
        CheckpointError: no file, a pickle, a file of another kind, another identity.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path} ({error.strerror}); give the folder of an earlier run"
        ) from None
    # A safetensors file begins with the length of its header in 8 bytes, which may be the first bytes of a pickle too.
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER
    if not is_safetensors and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when read; refused unread: only safetensors are taken"
        )
    if not is_safetensors:
        raise DamagedError(f"{path} is not a safetensors file; give the folder of an earlier run")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}); use another checkpoint") from None
    if header.get("format") not in (kind + _CHECKED, kind + _UNCHECKED):
        raise CheckpointError(f"{path} was not written by recbole-cora; give the folder of an earlier run")
    if header["format"] == kind + _CHECKED and header.pop("sha256", None) != _checksum(state, header):
        raise DamagedError(f"{path} is damaged: its content does not match its checksum; use another checkpoint")
    saved = json.loads(header["identity"])
    for key, value in identity.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"{path} was trained for another {key} ({saved.get(key)!r}, here {value!r}); "
                "use the same one, or train again"
            )
    return state, header


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """SHA-256 of the header's entries and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
