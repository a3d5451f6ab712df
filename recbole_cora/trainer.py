"""RecBole's trainers with our checkpoints, users kept for UAUC, a schedule, and epochs counted in steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from recbole_cora import checkpoint
from recbole_cora.errors import CheckpointError, CoraError, SettingError
from recbole_cora.metrics import UserCollector
from recbole_cora.microbatches import MicroBatches


class _Steps:
    """A train loader seen as epochs of `steps` batches each, going on where the last one stopped."""

    def __init__(self, loader: Any, steps: int) -> None:
        self._loader, self._steps = loader, steps
        self._batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._steps):
            batch = next(self._batches, None)
            if batch is None:
                self._batches = iter(self._loader)
                batch = next(self._batches)
            yield batch


class _OurTrainer(Trainer):
    """Mixed in front of RecBole's trainer for a model; its `fit` and `_train_epoch` run as they are.

    Args:
        config, model: as RecBole's.
        folder: where this run's checkpoint goes.
        identity: what the weights are trained for (see `checkpoint`).
        bar: the stage's progress bar; advanced once a batch.
    """

    def __init__(self, config: Any, model: Any, folder: Path, identity: dict[str, Any], bar: tqdm[Any]) -> None:
        super().__init__(config, model)
        self.saved_model_file = str(folder / checkpoint.WEIGHTS)
        self.eval_collector = UserCollector(config)
        self._identity, self._bar = identity, bar
        self._epoch_view: _Steps | None = None
        self._in_parts: MicroBatches | None = None
        parts, may_shrink = config["gradient_accumulation"], config["batches_may_shrink"]
        if parts > 1 or may_shrink:
            if self.enable_scaler:
                raise SettingError("gradient_accumulation does not work with RecBole's enable_scaler; switch one off")
            self._in_parts = MicroBatches(model.calculate_loss, model, parts, may_shrink)

    def _build_optimizer(self, **kwargs: Any) -> Any:
        """RecBole's optimizer over the trained parameters only (its own takes a frozen LLM's too), and the schedule."""
        kwargs.setdefault("params", [p for p in self.model.parameters() if p.requires_grad])
        optimizer = super()._build_optimizer(**kwargs)
        warmup, least, steps = (self.config[k] for k in ("warmup_steps", "min_lr_ratio", "steps_per_epoch"))
        if warmup is not None and steps:
            total = self.config["epochs"] * steps
            schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, least))
            optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        steps = self.config["steps_per_epoch"]
        if steps and self._epoch_view is None:
            self._epoch_view = _Steps(train_data, steps)
        loader = _Ticking(self._epoch_view or train_data, self._bar)
        return super()._train_epoch(loader, epoch_idx, loss_func or self._in_parts)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, result = super()._valid_epoch(valid_data)
        self._bar.set_postfix_str(f"valid {self.valid_metric} {score:.4f}", refresh=False)
        return score, result

    def _check_nan(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise CoraError(
                f"the training loss became {loss.item()}; lower --learning_rate (now {self.config['learning_rate']})"
            )

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        checkpoint.save(Path(self.saved_model_file), self.model, self._identity)

    def resume_checkpoint(self, resume_file: Any) -> None:
        raise CheckpointError("resuming RecBole's own .pth checkpoints would unpickle them; give the folder of a run")

    def evaluate(self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, **options: Any) -> Any:
        if load_best_model:
            checkpoint.load(Path(model_file or self.saved_model_file), self.model, self._identity)
        return super().evaluate(eval_data, load_best_model=False, **options)


class _Ticking:
    """A loader that advances the stage's bar once a batch; the rest is the loader's own."""

    def __init__(self, loader: Any, bar: tqdm[Any]) -> None:
        self._loader, self._bar = loader, bar

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self._bar.update()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def warmup_cosine(step: int, warmup: int, total: int, least: float) -> float:
    """The learning rate's factor: linear from 1% over `warmup` steps, then a cosine down to `least` at `total`."""
    if step < warmup:
        return 0.01 + 0.99 * step / max(warmup, 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


def make_trainer(config: Any, model: Any, folder: Path, identity: dict[str, Any], bar: tqdm[Any]) -> Trainer:
    """RecBole's trainer class for this model (its own special ones too), with our parts mixed in front."""
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    cls = type(f"Cora{base.__name__}", (_OurTrainer, base), {})
    return cls(config, model, folder, identity, bar)
