"""Checkpoints: one safetensors file with the trained weights and, in its header, the identity of their training.

The identity names the model, the data and the frozen parts that the weights were trained for. No pickle is ever read:
a file that is not safetensors is refused by its first bytes. The header also contains a checksum of everything else, so
a file with a changed bit is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_cora.errors import CheckpointError, DamagedError
from recbole_cora.files import write_whole

WEIGHTS = "model.safetensors"
_KIND = "recbole-cora"
#: The formats that can be read, as a suffix of the file's kind: /2 has a checksum, /1 (until version 0.1.0) has none.
_CHECKED, _UNCHECKED = "/2", "/1"
#: The longest header that the safetensors library accepts, in bytes.
_LONGEST_HEADER = 100_000_000

#: Plain numbers by module name, then by attribute.
Numbers = dict[str, dict[str, int | float]]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model's `trained` part, or of the whole model if it has no such part."""
    return dict(_trained(model).state_dict())


def numbers(model: nn.Module) -> Numbers:
    """Return the plain numbers that the trained modules have besides their state, such as a counter of steps."""
    by_module = {
        name: {key: value for key, value in vars(module).items() if type(value) in (int, float)}
        for name, module in _trained(model).named_modules()
    }
    return {name: attributes for name, attributes in by_module.items() if attributes}


def set_numbers(model: nn.Module, saved: Numbers) -> None:
    """Restore the plain numbers that `numbers` returned."""
    for name, module in _trained(model).named_modules():
        vars(module).update(saved.get(name, {}))


def _trained(model: nn.Module) -> nn.Module:
    part: nn.Module = getattr(model, "trained", model)
    return part


def save(path: Path, model: nn.Module, identity: Mapping[str, object]) -> None:
    """Write the trained weights and their identity atomically. Raises WriteError."""
    # clone: safetensors refuses tensors that share memory, as tied weights do
    state = {k: v.detach().cpu().clone().contiguous() for k, v in trained_state(model).items()}
    write(path, _KIND, state, {"identity": json.dumps(identity)})


def write(path: Path, kind: str, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file atomically, with its format and checksum in the header. Raises WriteError."""
    header = {**header, "format": kind + _CHECKED}
    header["sha256"] = _checksum(tensors, header)

    def fill(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:  # this is how it reports a full disk
            raise OSError(str(error)) from None

    write_whole(path, fill)


def load(path: Path, model: nn.Module, identity: Mapping[str, object]) -> None:
    """Load weights into `model`.

    Args:
        identity: the model's identity; each of its entries must equal the file's.

    Raises:
        CheckpointError: there is no such file; it is a pickle, truncated, changed or not ours; its identity differs;
            weights are missing or unexpected, have another shape, or are NaN or infinite.
    """
    set_weights(path, model, read(path, _KIND, identity)[0])


def set_weights(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put trained weights, read from `path`, into `model`.

    Raises:
        CheckpointError: they do not fit the model, or are not finite; the model is unchanged.
    """
    expected = trained_state(model)
    missing, unexpected = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unexpected:
        raise CheckpointError(f"{path} does not fit this model: missing {missing[:3]}, unexpected {unexpected[:3]}")
    for name, tensor in expected.items():
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
                f"{path}: '{name}' has NaN or infinite weights, because its training diverged; train again with a "
                "lower --learning_rate, or use another checkpoint"
            )
    _trained(model).load_state_dict(state)


def read(path: Path, kind: str, identity: Mapping[str, object]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a safetensors file that `write` has written.

    Raises:
        DamagedError: the file is truncated or has changed.
        CheckpointError: there is no such file, it is a pickle or of another kind, or its identity differs.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path} ({error.strerror}); give the folder of an earlier run"
        ) from None
    # A safetensors file begins with its header's length in 8 bytes, which may look like the first bytes of a pickle.
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER
    if not is_safetensors and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when read; it was refused unread (expected a safetensors file)"
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
    file_identity = json.loads(header["identity"])
    for key, value in identity.items():
        if file_identity.get(key) != value:
            raise CheckpointError(
                f"{path} was trained for another {key} ({file_identity.get(key)!r}, here {value!r}); "
                "use the same one, or train again"
            )
    return state, header


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Return the SHA-256 of the header's entries and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.contiguous().reshape(-1)
        if flat.numel() == 1:  # contiguous, whatever its stride, which `view` does not take
            flat = flat.clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
