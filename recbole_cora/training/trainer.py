"""RecBole's trainers with our checkpoints, users kept for UAUC, a schedule, and epochs counted in steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from recbole_cora import processes
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.errors import CheckpointError, CoraError, SettingError, Stopped, WriteError
from recbole_cora.metrics import UserCollector
from recbole_cora.training import checkpoint
from recbole_cora.training import state as training_state
from recbole_cora.training.board import Board, silence_threads
from recbole_cora.training.microbatches import MicroBatches


class Enough(BaseException):
    """A training has taken `max_steps` steps."""


class _Batches:
    """The train loader as epochs of `steps` batches, each epoch going on where the last one stopped.

    A pass over the loader is an order that its generator draws; where in which order the next batch is, is known, so
    that another process can go on there. (RecBole's loader of knowledge graphs has no such generator: it begins its
    epoch anew.)

    Args:
        loader: RecBole's.
        steps: of an epoch; None: a pass.
        between: called with the epoch's number of batches so far, before each batch; False ends the epoch.
        bar: advanced once a batch.
    """

    def __init__(self, loader: Any, steps: int | None, between: Callable[[int], bool], bar: tqdm[Any]) -> None:
        self._loader, self._steps, self._between, self._bar = loader, steps, between, bar
        self._pass: Iterator[Any] | None = None
        self._order: torch.Tensor | None = None  # the generator's state when the pass began
        self._taken = 0  # batches of the pass
        self._state: Any = None  # RecBole's loader of knowledge graphs: what its batches hold in this pass
        self._first = 0  # of the next epoch
        self.current: Any = None  # the batch handed out last

    def __len__(self) -> int:
        return self._steps or len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def position(self) -> dict[str, Any]:
        """Where the next batch is."""
        return {"order": self._order, "taken": self._taken}

    def go_to(self, position: dict[str, Any], first: int) -> int:
        """Make the next batch that of `position`, the epoch's `first`. Returns its number, 0 where it begins anew."""
        if position["order"] is None:
            return 0
        self._first = first
        self._loader.generator.set_state(position["order"])
        self._begin_pass()
        for _ in range(position["taken"]):
            self._next()
        return first

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, 0
        state = getattr(self._loader, "state", None)
        if (self._steps is None and first == 0) or state != self._state:
            self._pass = None  # an epoch is a pass
        self._state = state
        for number in range(first, len(self)):
            if not self._between(number):
                return
            self.current = self._next()
            if self.current is None:
                return
            yield self.current
            self._bar.update()

    def _next(self) -> Any:
        """The next batch; None where a pass is the whole epoch, and over."""
        if self._pass is None:
            self._begin_pass()
        batch = next(self._pass, None)  # type: ignore[arg-type]
        if batch is None and self._steps is not None:
            self._begin_pass()
            batch = next(self._pass)  # type: ignore[arg-type]
        self._taken += 1
        return batch

    def _begin_pass(self) -> None:
        generator = getattr(self._loader, "generator", None)
        self._order = generator.get_state() if generator is not None else None
        self._pass, self._taken = iter(self._loader), 0


class _OurTrainer(Trainer):
    """Mixed in front of RecBole's trainer for a model; its `fit` and `_train_epoch` run as they are.

    Args:
        config, model: as RecBole's.
        folder: where this run's checkpoints go.
        identity: what the weights are trained for (see `checkpoint`).
        bar: the stage's progress bar; advanced once a batch.
        resumable: save the training's state each `save_every` steps, and when stopped.
        on_valid: called after each evaluation with the number of epochs so far and the metrics.

    Attributes:
        curve: of each epoch so far: its number, the mean loss of its steps, and the valid metrics where it was
            evaluated.
    """

    def __init__(
        self, config: Any, model: Any, folder: Path, identity: dict[str, Any], bar: tqdm[Any], resumable: bool,
        on_valid: Callable[[int, dict[str, float | None]], None] | None,
    ) -> None:  # fmt: skip
        silence_threads()
        try:
            super().__init__(config, model)
        except OSError as error:
            where = error.filename or "log_tensorboard"
            raise WriteError(
                f"cannot write {where} ({error.strerror}); make room there, or start the run in another folder"
            ) from None
        self.tensorboard: Any = Board(self.tensorboard)
        self.saved_model_file = str(folder / checkpoint.WEIGHTS)
        self.eval_collector = UserCollector(config)
        self._folder, self._identity, self._bar, self._resumable = folder, identity, bar, resumable
        self._on_valid = on_valid
        self._batches: _Batches | None = None
        self._position: dict[str, Any] | None = None  # to go on from
        self._epoch = self._step = 0
        self.curve: list[dict[str, Any]] = []
        self._losses = (0.0, 0)  # of the epoch's steps so far: their sum and number
        self._cut = False  # the epoch ended early, at `max_steps`
        self.stopping = 0  # a signal's number, set from outside: save the state and stop before the next step
        self._in_parts: MicroBatches | None = None
        parts, may_shrink = config["gradient_accumulation"], config.batches_may_shrink
        self._shared = resumable and processes.count() > 1  # earlier stages are one process's
        if parts > 1 or may_shrink or self._shared:
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
            self._schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, least))
            optimizer.register_step_post_hook(lambda *_: self._schedule.step())
        return optimizer

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        most = self.config["max_steps"]
        if self._batches is None:
            self._batches = _Batches(train_data, self.config["steps_per_epoch"], self._between_steps, self._bar)
        self._epoch = epoch_idx
        first = 0
        if self._position is None:
            self._losses = (0.0, 0)
        else:
            position, self._position = self._position, None
            first = self._batches.go_to(position["batches"], position["in_epoch"])
            states = position["random"]
            training_state.set_random_states(states[processes.rank() if len(states) == processes.count() else 0])
        if most and self._step >= most and not first:  # else it was cut amid this epoch, which is still to be scored
            if not self._cut:
                self._save_state(0)
            raise Enough
        super()._train_epoch(self._batches, epoch_idx, loss_func or self._in_parts)
        total, steps = self._losses
        self.curve.append({"epoch": epoch_idx + 1, "loss": total / steps if steps else None})
        return total / max(steps, 1)  # for the log; RecBole's own sum grows with the number of steps

    def _between_steps(self, in_epoch: int) -> bool:
        """Before each step: save the state where it is time, stop where that is asked; False after `max_steps`."""
        every, most = self.config["save_every"], self.config["max_steps"]
        if self._shared:
            self.stopping = max(processes.gathered(self.stopping))  # a signal may have reached one of them
        self._cut = bool(most and self._step >= most)
        if self._cut or self.stopping or (every and self._step and self._step % every == 0):
            self._save_state(in_epoch)
        if self.stopping:
            raise Stopped(
                f"after {self._step} steps, state saved; --resume={self._folder} with the same settings goes on",
                self.stopping,
            )
        self._step += not self._cut
        return not self._cut

    def _save_state(self, in_epoch: int) -> None:
        if not self._resumable or self._batches is None:
            return
        if any(not torch.isfinite(tensor).all() for tensor in checkpoint.trained_state(self.model).values()):
            raise self._diverged("weights became nan or infinite")  # not what to go on from
        schedule = getattr(self, "_schedule", None)
        drawn = training_state.random_states()
        state = {
            "model": checkpoint.trained_state(self.model), "numbers": checkpoint.numbers(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule and schedule.state_dict(),
            "random": processes.gathered(drawn) if self._shared else [drawn],
            "batches": self._batches.position(),
            "parts": self._in_parts and self._in_parts.parts,
            "epoch": self._epoch, "in_epoch": in_epoch, "step": self._step,
            "curve": self.curve, "losses": self._losses,
            "best": [self.best_valid_score, self.best_valid_result and dict(self.best_valid_result), self.cur_step],
        }  # fmt: skip
        if self._shared and not processes.is_main():
            return
        training_state.save(self._folder, self._step, state, self._identity, self.config["keep_states"])

    def go_on_from(self, path: Path, state: dict[str, Any]) -> None:
        """Take up the training where `state` was saved in `path`. Raises CheckpointError where it does not fit."""
        checkpoint.put(path, self.model, state["model"])
        checkpoint.put_numbers(self.model, state["numbers"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"{path} does not fit this training: {error}") from None
        if state["schedule"]:
            self._schedule.load_state_dict(state["schedule"])
        if self._in_parts is not None and state["parts"]:
            self._in_parts.parts = state["parts"]
        self.best_valid_score, self.best_valid_result, self.cur_step = state["best"]
        self.start_epoch, self._step = state["epoch"], state["step"]
        self.curve, self._losses = state["curve"], tuple(state["losses"])
        self._position = state
        self._bar.update(self._step)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, result = super()._valid_epoch(valid_data)
        if math.isnan(score):
            raise self._diverged(f"valid {self.valid_metric} became nan, as scores overflow,")
        self._bar.set_postfix_str(f"valid {self.valid_metric} {score:.4f}", refresh=False)
        found = {name: None if math.isnan(value) else value for name, value in result.items()}
        self.curve[-1] |= found
        if self._on_valid is not None:
            self._on_valid(self._epoch + 1, found)
        return score, result

    def _check_nan(self, loss: torch.Tensor) -> None:
        if torch.isfinite(loss):
            total, steps = self._losses
            self._losses = (total + loss.item(), steps + 1)
            return
        raise self._diverged(f"training loss became {loss.item()}")

    def _diverged(self, what: str) -> CoraError:
        batch = self._batches.current.interaction if self._batches is not None else {}
        rows = batch[ROW].tolist() if ROW in batch else []
        good = training_state.latest(self._folder)
        return CoraError(
            f"the {what} in step {self._step} (epoch {self._epoch}), on {len(rows)} rows beginning with "
            f"{', '.join(map(str, rows[:5]))}; lower --learning_rate (now {self.config['learning_rate']}); the last "
            f"good state: {good or 'none was saved yet'}"
        )

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if not self._shared or processes.is_main():
            checkpoint.save(Path(self.saved_model_file), self.model, self._identity)

    def pretrain(self, train_data: Any, verbose: bool = True, show_progress: bool = False) -> Any:
        """RecBole's pre-training (S3Rec, RaCT), whose last weights are the run's: no metric chooses among them."""
        result = super().pretrain(train_data, verbose, show_progress)  # type: ignore[misc]
        self._save_checkpoint(self.pretrain_epochs)
        return result

    def save_pretrained_model(self, epoch: int, saved_model_file: Any) -> None:
        self._save_checkpoint(epoch)  # RecBole's is a pickle, beside the run's folder

    def resume_checkpoint(self, resume_file: Any) -> None:
        raise CheckpointError("resuming RecBole's own .pth checkpoints would unpickle them; give the folder of a run")

    def evaluate(self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, **options: Any) -> Any:
        if load_best_model:
            checkpoint.load(Path(model_file or self.saved_model_file), self.model, self._identity)
        return super().evaluate(eval_data, load_best_model=False, **options)


def warmup_cosine(step: int, warmup: int, total: int, least: float) -> float:
    """The learning rate's factor: linear from 1% over `warmup` steps, then a cosine down to `least` at `total`."""
    if step < warmup:
        return 0.01 + 0.99 * step / max(warmup, 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


def make_trainer(
    config: Any, model: Any, folder: Path, identity: dict[str, Any], bar: tqdm[Any], resumable: bool,
    on_valid: Callable[[int, dict[str, float | None]], None] | None = None,
) -> Any:  # fmt: skip
    """RecBole's trainer class for this model (its own special ones too), with our parts mixed in front."""
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    cls = type(f"Cora{base.__name__}", (_OurTrainer, base), {})
    return cls(config, model, folder, identity, bar, resumable, on_valid)
