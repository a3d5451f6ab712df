"""Refuse models whose loss cannot be computed part by part, because its value or gradient would change.

`--gradient_accumulation` above 1, `--train_batch_size=auto` and several processes compute a step's loss on parts of its
rows and add them up, weighted by their numbers of rows. That equals the loss of the whole batch only if the loss is a
mean over rows. RecBole has no flag for this, and it depends on settings (`reg_weight`, `loss_type`). So it is measured
on a few rows of the first batch, before training starts. A loss that cannot be measured is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recbole_cora.errors import SettingError
from recbole_cora.training import checkpoint
from recbole_cora.training import state as training_state

#: Number of rows to measure on, and how many of them are in the first part. Halves would hide a mean of means.
_ROWS, _FIRST = 16, 5
#: Largest relative difference of loss and gradient between the parts and the whole. RecBole's losses that are means
#: differ by at most 1e-5 (rounding, and LightGCN's small regularisation), the others by at least 1e-3.
_TOLERANCE = 1e-4


class _WithoutDropout(TorchFunctionMode):
    """Switch dropout off, as a module and as a function: its random draws may differ between the parts."""

    _dropouts = (
        torch.dropout, torch.dropout_, torch.feature_dropout, torch.alpha_dropout, nn.functional.dropout,
        nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d, nn.functional.alpha_dropout,
    )  # fmt: skip

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._dropouts:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.multi_head_attention_forward:
            kwargs = {**kwargs, "training": False}  # this affects its dropout only
        return func(*args, **kwargs)


def check(model: nn.Module, trainer: type[Trainer], loader: AbstractDataLoader, device: torch.device, why: str) -> None:
    """Refuse a model whose loss on the parts of a batch differs from its loss on the whole batch.

    Model, loader and random states are unchanged afterwards.

    Args:
        model: the model, freshly built.
        trainer: RecBole's trainer class for it.
        loader: RecBole's loader of its train rows.
        why: the setting that splits batches, as a user would write it, such as `gradient_accumulation: 2`.

    Raises:
        SettingError: the loss differs, or cannot be measured.
    """
    if not is_measured(type(model)):
        return
    reason = reason_to_refuse(model, trainer, loader, device)
    if reason:
        raise SettingError(
            f"{type(model).__name__} {reason}, so it cannot be trained with {why}; use one process, "
            "gradient_accumulation: 1 and a number as train_batch_size"
        )


def is_measured(model_class: type) -> bool:
    """Tell whether a model's loss must be measured: it must for RecBole's models and those built on them, such as LGCN.

    The losses of this package's other models are means over rows, as `tests/contract.py` tests. Measuring an LLM's loss
    in bfloat16 would cost more and show less.
    """
    modules = [cls.__module__ for cls in model_class.__mro__]
    return any(name.startswith("recbole.model.") and "abstract_recommender" not in name for name in modules)


def reason_to_refuse(
    model: nn.Module, trainer: type[Trainer], loader: AbstractDataLoader, device: torch.device
) -> str | None:
    """Return why a model's loss cannot be computed in parts, as the rest of a sentence about it; None if it can."""
    if trainer._train_epoch is not Trainer._train_epoch:
        return f"is trained by {trainer.__name__}, which has losses of its own"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return "normalises over batches, but each part would see only its own rows"
    random_states = training_state.random_states()
    order = loader.generator.get_state() if getattr(loader, "generator", None) is not None else None
    weights = {name: tensor.detach().clone() for name, tensor in checkpoint.trained_state(model).items()}
    numbers, training = checkpoint.numbers(model), model.training
    model.train()
    try:
        batch = next(iter(loader)).to(device)[:_ROWS]
        return difference(model, model.calculate_loss, batch) if len(batch) > 1 else None  # type: ignore[arg-type]
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
        model.load_state_dict(weights)
        checkpoint.set_numbers(model, numbers)
        training_state.set_random_states(random_states)
        if order is not None:
            loader.generator.set_state(order)


def difference(model: nn.Module, loss: Callable[[Interaction], Tensor], batch: Interaction) -> str | None:
    """Return how the loss of two parts differs from that of the whole batch; None if it does not."""
    rows, first = len(batch), min(_FIRST, len(batch) - 1)
    random_states = vars(training_state.random_states())
    numbers = checkpoint.numbers(model)
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    with _WithoutDropout():
        whole = loss(batch)
        if isinstance(whole, tuple):
            return "has a loss of several terms in a tuple"
        value, gradient = _loss_and_gradient(model, whole, 1.0)
        if checkpoint.numbers(model) != numbers or any(
            not torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers()
        ):
            return "has a loss that counts its calls"
        if not _equal(vars(training_state.random_states()), random_states):
            return "has a loss that draws random numbers for the batch"
        parts = [_loss_and_gradient(model, loss(part), len(part) / rows) for part in (batch[:first], batch[first:])]
    total = sum(part[0] for part in parts)
    gap = (gradient - torch.stack([part[1] for part in parts]).sum(0)).norm()
    if abs(value - total) > _TOLERANCE * abs(value) or gap > _TOLERANCE * gradient.norm():
        return f"has a loss that is not a mean over rows ({value:.6g} on {rows} rows, {total:.6g} on two parts of them)"
    return None


def _loss_and_gradient(model: nn.Module, loss: Tensor, weight: float) -> tuple[float, Tensor]:
    """Return the weighted loss and its gradient as one flat vector."""
    model.zero_grad(set_to_none=True)
    (loss * weight).backward()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = [torch.zeros(p.numel()) if p.grad is None else p.grad.to_dense().detach().cpu().flatten() for p in trainable]
    return float(loss.detach()) * weight, torch.cat(flat).double()


def _equal(one: Any, other: Any) -> bool:
    """Tell whether two random states, or parts of them, are equal."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
