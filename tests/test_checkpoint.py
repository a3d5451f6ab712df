"""Laws of checkpoints: a file that is damaged, not ours, or for another identity is refused with the reason."""

from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.training import checkpoint

IDENTITY = {"model": "Line", "split of the rows": "abc"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a small linear model."""
    path = tmp_path / checkpoint.WEIGHTS
    checkpoint.save(path, nn.Linear(3, 2), IDENTITY)
    return path


def test_a_saved_model_loads_bit_for_bit(tmp_path: Path) -> None:
    """Saving leaves nothing but the checkpoint in its folder."""
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoint.save(tmp_path / checkpoint.WEIGHTS, model, IDENTITY)
    checkpoint.load(tmp_path / checkpoint.WEIGHTS, other, IDENTITY)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.WEIGHTS]


@pytest.mark.parametrize("size", [0, 5, 40, 200, -1])
def test_a_truncated_checkpoint_is_refused(saved: Path, size: int) -> None:
    """This holds wherever the file is cut off."""
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"truncated|not a safetensors"):
        checkpoint.load(saved, nn.Linear(3, 2), IDENTITY)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    """A file that another program wrote does not name what it was trained for."""
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="not written by recbole-cora"):
        checkpoint.load(tmp_path / "adapter.safetensors", nn.Linear(3, 2), IDENTITY)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_unread(tmp_path: Path, protocol: int) -> None:
    """A bare pickle, and the zip file that torch.save writes, are both refused."""
    path = tmp_path / checkpoint.WEIGHTS
    path.write_bytes(pickle.dumps({"weight": 1}, protocol))
    with pytest.raises(CheckpointError, match="refused unread"):
        checkpoint.load(path, nn.Linear(3, 2), IDENTITY)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="refused unread"):
        checkpoint.load(path, nn.Linear(3, 2), IDENTITY)


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"])
def test_a_checkpoint_whose_header_length_reads_as_a_pickle_loads(tmp_path: Path, start: bytes) -> None:
    """The first 8 bytes are the header's length, which may be 0x0280 or another number that starts a pickle."""
    model, other, path = nn.Linear(3, 2), nn.Linear(3, 2), tmp_path / checkpoint.WEIGHTS
    checkpoint.save(path, model, {"pad": ""})
    pad = "x" * (int.from_bytes(start, "little") - int.from_bytes(path.read_bytes()[:8], "little"))
    checkpoint.save(path, model, {"pad": pad})
    assert path.read_bytes()[:2] == start
    checkpoint.load(path, other, {"pad": pad})
    assert torch.equal(model.weight, other.weight)


def test_a_bit_that_has_changed_anywhere_is_refused(saved: Path) -> None:
    """Any changed bit is noticed: in the weights, their names, shapes and dtypes, or the identity."""
    whole = saved.read_bytes()
    for place in range(len(whole)):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(saved, nn.Linear(3, 2), {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_bit_of_the_weights_is_enough(tmp_path: Path, dtype: torch.dtype) -> None:
    """Flipping the lowest bit of the last weight, in any dtype, makes the file damaged."""
    path = tmp_path / checkpoint.WEIGHTS
    checkpoint.save(path, nn.Linear(3, 2, dtype=dtype), IDENTITY)
    checkpoint.load(path, nn.Linear(3, 2, dtype=dtype), IDENTITY)
    whole = path.read_bytes()
    itemsize = dtype.itemsize
    path.write_bytes(whole[:-itemsize] + bytes([whole[-itemsize] ^ 1]) + whole[len(whole) - itemsize + 1 :])
    with pytest.raises(DamagedError, match="does not match its checksum"):
        checkpoint.load(path, nn.Linear(3, 2, dtype=dtype), IDENTITY)


def test_a_single_number_may_have_any_stride(tmp_path: Path) -> None:
    """scikit-learn's intercept may be a slice of a larger array: one number with the stride of the whole."""
    model = nn.Linear(1, 1).double()
    model.bias.data = torch.as_strided(torch.arange(20, dtype=torch.float64), (1,), (10,))
    checkpoint.save(tmp_path / "one.safetensors", model, {})
    other = nn.Linear(1, 1).double()
    checkpoint.load(tmp_path / "one.safetensors", other, {})
    assert torch.equal(other.bias, model.bias)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    """The model then keeps its weights. An infinite buffer, such as a mask, is not a weight and is accepted."""
    path, diverged, model = tmp_path / checkpoint.WEIGHTS, nn.Linear(3, 2), nn.Linear(3, 2)
    torch.nn.init.constant_(diverged.bias[1:], value)
    checkpoint.save(path, diverged, IDENTITY)
    before = model.bias.tolist()
    with pytest.raises(CheckpointError, match="'bias' has NaN or infinite weights"):
        checkpoint.load(path, model, IDENTITY)
    assert model.bias.tolist() == before
    masked = nn.Linear(3, 2)
    masked.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    checkpoint.save(path, masked, IDENTITY)
    checkpoint.load(path, masked, IDENTITY)


def test_a_checkpoint_of_the_version_before_loads(tmp_path: Path) -> None:
    """A file of the format recbole-cora/1, without a checksum, still loads."""
    model, other, path = nn.Linear(3, 2), nn.Linear(3, 2), tmp_path / checkpoint.WEIGHTS
    header = {"format": "recbole-cora/1", "identity": json.dumps(IDENTITY)}
    save_file(model.state_dict(), path, metadata=header)
    checkpoint.load(path, other, IDENTITY)
    assert torch.equal(model.weight, other.weight)


def test_the_difference_of_identity_is_named(saved: Path) -> None:
    """The error names the entry that differs, here the split of the rows, and both values."""
    with pytest.raises(CheckpointError, match=r"another split of the rows \('abc', here 'xyz'\)"):
        checkpoint.load(saved, nn.Linear(3, 2), {**IDENTITY, "split of the rows": "xyz"})


@pytest.mark.parametrize(
    ("model", "error"),
    [(nn.Linear(4, 2), "shape"), (nn.Linear(3, 2, bias=False), "unexpected"), (nn.GRU(3, 2), "miss")],
)
def test_weights_of_another_form_are_refused(saved: Path, model: nn.Module, error: str) -> None:
    """The model then keeps its weights."""
    before = json.dumps([p.tolist() for p in model.parameters()])
    with pytest.raises(CheckpointError, match=error):
        checkpoint.load(saved, model, IDENTITY)
    assert json.dumps([p.tolist() for p in model.parameters()]) == before


@pytest.mark.parametrize("limit", [100, 5000])
def test_where_the_system_refuses_to_write_the_old_file_stays(saved: Path, limit: int) -> None:
    """The old checkpoint is complete, and nothing else is in its folder."""
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*model.safetensors \(.*too large"):
            checkpoint.save(saved, nn.Linear(100, 100), IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [checkpoint.WEIGHTS]
