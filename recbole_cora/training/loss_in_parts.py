"""Refuse a loss that cannot be computed part by part, because its value or gradient would be another.

`--gradient_accumulation` above 1, `--train_batch_size=auto` and several processes compute a step's loss on parts of its
rows and add them up, weighted by their rows. That is the loss of the whole batch only where the loss is a mean over
rows. Which of RecBole's losses are, no flag says, and it depends on settings (`reg_weight`, `loss_type`): so it is
measured, on a few rows of the first batch, before anything is trained. What cannot be measured is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.trainer import Trainer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recbole_cora.errors import SettingError
from recbole_cora.training import checkpoint
from recbole_cora.training import state as training_state

#: Rows that are measured, and of them the rows of the first part. Uneven: halves would hide a mean of means.
_ROWS, _FIRST = 16, 5
#: How far loss and gradient of the parts may be from those of the whole, as a share of their size. Of RecBole's losses
#: the means come to 1e-5 at most (rounding, and LightGCN's small regularisation), the others to 1e-3 at least.
_TOLERANCE = 1e-4


class _WithoutDropout(TorchFunctionMode):
    """Dropout, as a module or a function, lets everything through: its draws differ from part to part, as they may."""

    _dropouts = (
        torch.dropout, torch.dropout_, torch.feature_dropout, torch.alpha_dropout, nn.functional.dropout,
        nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d, nn.functional.alpha_dropout,
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._dropouts:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.multi_head_attention_forward:
            kwargs = {**kwargs, "training": False}  # which switches its dropout alone
        return func(*args, **kwargs)


def check(model: nn.Module, trainer: type[Trainer], loader: Any, device: torch.device, why: str) -> None:
    """Refuse a model whose loss on parts of a batch is not that on the whole.

    Model, loader and random states are left as they were.

    Args:
        model: freshly built.
        trainer: RecBole's trainer class for it.
        loader: of its train rows.
        why: what asks for parts, as a user would write it, such as `gradient_accumulation: 2`.

    Raises:
        SettingError: names the model and what its loss does.
    """
    if not is_measured(type(model)):
        return
    reason = why_not(model, trainer, loader, device)
    if reason:
        raise SettingError(
            f"{type(model).__name__} {reason}, so it cannot be trained with {why}; use one process, "
            "gradient_accumulation: 1 and a number as train_batch_size"
        )


def is_measured(model_class: type) -> bool:
    """Tell whether a model is RecBole's or built on one of RecBole's, as LGCN is, whose regularisation is no mean.

    The losses of this package's other models are means over rows, which `tests/contract.py` keeps: to measure an LLM's,
    in bfloat16, would cost more and show less.
    """
    modules = [cls.__module__ for cls in model_class.__mro__]
    return any(name.startswith("recbole.model.") and "abstract_recommender" not in name for name in modules)


def why_not(model: nn.Module, trainer: type[Trainer], loader: Any, device: torch.device) -> str | None:
    """Return why a model's loss cannot be computed in parts; None where it can."""
    if trainer._train_epoch is not Trainer._train_epoch:
        return f"is trained by {trainer.__name__}, on losses of its own"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return "normalises over batches, of which each part would see its rows alone"
    before = training_state.random_states()
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
        checkpoint.put_numbers(model, numbers)
        training_state.set_random_states(before)
        if order is not None:
            loader.generator.set_state(order)


def difference(model: nn.Module, loss: Callable[[Any], Tensor], batch: Any) -> str | None:
    """Return how the loss of two parts differs from that of the whole batch; None where it does not."""
    rows, first = len(batch), min(_FIRST, len(batch) - 1)
    drawn = training_state.random_states()
    numbers = checkpoint.numbers(model)
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    with _WithoutDropout():
        whole = loss(batch)
        if isinstance(whole, tuple):
            return "has a loss of several terms in a tuple"
        value, gradient = _with_gradient(model, whole, 1.0)
        if checkpoint.numbers(model) != numbers or any(
            not torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers()
        ):
            return "has a loss that counts its calls"
        if not _same(training_state.random_states(), drawn):
            return "has a loss that draws random numbers for the batch"
        parts = [_with_gradient(model, loss(part), len(part) / rows) for part in (batch[:first], batch[first:])]
    total = sum(part[0] for part in parts)
    away = (gradient - torch.stack([part[1] for part in parts]).sum(0)).norm()
    if abs(value - total) > _TOLERANCE * abs(value) or away > _TOLERANCE * gradient.norm():
        return f"has a loss that is no mean over rows ({value:.6g} on {rows} rows, {total:.6g} on two parts of them)"
    return None


def _with_gradient(model: nn.Module, loss: Tensor, weight: float) -> tuple[float, Tensor]:
    model.zero_grad(set_to_none=True)
    (loss * weight).backward()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flat = [torch.zeros(p.numel()) if p.grad is None else p.grad.to_dense().detach().cpu().flatten() for p in learned]
    return float(loss.detach()) * weight, torch.cat(flat).double()


def _same(one: Any, other: Any) -> bool:
    """Tell whether two random states are equal."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
