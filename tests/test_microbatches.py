"""Laws of reading batches in parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_cora import run
from recbole_cora.errors import CoraError
from recbole_cora.training.microbatches import MicroBatches


def loss_of(model: nn.Module, max_rows: int | None = None) -> Callable[[Tensor], Tensor]:
    """Return a loss, the mean squared output, that runs out of memory on more than `max_rows` rows."""

    def loss(batch: Tensor) -> Tensor:
        mean = model(batch).square().mean()
        if max_rows is not None and len(batch) > max_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return mean

    return loss


def gradient(parts: int, max_rows: int | None = None, may_shrink: bool = False) -> tuple[float, Tensor, MicroBatches]:
    """Return the loss of a batch read in parts, its gradient, and the MicroBatches used."""
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 3), torch.randn(7, 4)
    loss = MicroBatches(loss_of(model, max_rows), model, parts, may_shrink)
    value = loss(batch)
    value.backward()  # as a trainer does
    assert model.weight.grad is not None
    return float(value), model.weight.grad, loss


@pytest.mark.parametrize("parts", [2, 3, 7, 50])
def test_parts_have_the_gradient_of_the_whole(parts: int) -> None:
    """Loss and gradient are those of the whole batch, even if the parts are uneven."""
    value, whole, _ = gradient(1)
    other, accumulated, _ = gradient(parts)
    assert abs(value - other) < 1e-6
    torch.testing.assert_close(accumulated, whole, atol=1e-6, rtol=1e-5)


def test_out_of_memory_halves_the_parts_until_they_fit() -> None:
    """The same rows are read again, the gradient is that of the whole batch, and later batches use small parts too."""
    _, whole, _ = gradient(1)
    _, accumulated, loss = gradient(1, max_rows=2, may_shrink=True)
    assert loss.parts == 4
    torch.testing.assert_close(accumulated, whole, atol=1e-6, rtol=1e-5)


def test_a_retry_draws_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It repeats the draws from torch, numpy, Python and each GPU; counters replace the GPUs here."""
    gpus = [torch.tensor([0]), torch.tensor([0])]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [gpu.clone() for gpu in gpus])

    def set_all(states: list[Tensor]) -> None:
        for gpu, state in zip(gpus, states, strict=True):
            gpu.copy_(state)

    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all)
    draws: list[tuple[float, ...]] = []
    model = nn.Linear(4, 1)

    def loss(batch: Tensor) -> Tensor:
        for gpu in gpus:
            gpu += 1
        draws.append((torch.rand(1).item(), np.random.rand(), random.random(), *(gpu.item() for gpu in gpus)))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(batch).mean()

    MicroBatches(loss, model, 1, may_shrink=True)(torch.randn(7, 4))
    whole, half, *quarters = draws
    assert whole == half == quarters[0]
    assert len(set(quarters)) == len(quarters) == 4


def test_what_does_not_fit_is_said_in_one_line() -> None:
    """The error names the remedy. An error that is not about memory is not changed."""
    with pytest.raises(CoraError, match="--train_batch_size=auto"):
        gradient(1, max_rows=2)
    with pytest.raises(CoraError, match="1 rows at once; try --gradient_checkpointing"):
        gradient(1, max_rows=0, may_shrink=True)

    def broken(batch: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        MicroBatches(broken, nn.Linear(1, 1), 1, True)(torch.zeros(2, 1))


def test_a_run_in_parts_is_the_run(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MF has the same scores with whole batches, 3 parts a batch, and as many parts as a small memory requires."""
    from recbole_cora.models.mf import MF

    options = {"epochs": 2, "embedding_size": 8, "show_progress": False, "seed": 1}
    whole = run("MF", "toy", options)["test"]["logloss"]
    assert abs(run("MF", "toy", {**options, "gradient_accumulation": 3})["test"]["logloss"] - whole) < 1e-5

    sizes, original = [], MF.predict

    def predict_in_small_memory(self: MF, interaction: Interaction) -> Tensor:
        if self.training and len(interaction) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(interaction))
        return original(self, interaction)

    monkeypatch.setattr(MF, "predict", predict_in_small_memory)
    assert abs(run("MF", "toy", {**options, "train_batch_size": "auto"})["test"]["logloss"] - whole) < 1e-5
    assert max(sizes[:8]) <= 20
    with pytest.raises(CoraError, match="out of memory"):
        run("MF", "toy", {**options, "gradient_accumulation": 2})
