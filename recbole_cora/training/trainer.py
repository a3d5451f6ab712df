"""RecBole's trainers, with our checkpoints, resumable states, UAUC, a schedule, and epochs counted in steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from recbole.utils import get_trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recbole_cora import processes
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.errors import CheckpointError, CoraError, SettingError, Stopped, WriteError
from recbole_cora.metrics import Metrics, UserCollector
from recbole_cora.progress import Progress
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training import checkpoint
from recbole_cora.training import state as training_state
from recbole_cora.training.batches import Batches
from recbole_cora.training.board import Board, silence_threads
from recbole_cora.training.microbatches import MicroBatches
from recbole_cora.training.state import Best, Curve, LossSum, TrainingState

#: Called after each evaluation with the number of epochs so far and the valid metrics.
OnValid = Callable[[int, Metrics], None]


class MaxStepsReached(BaseException):
    """Training has taken `max_steps` steps."""


class CoraTrainer(Trainer):
    """A mixin placed before RecBole's trainer for a model; it calls that trainer's `fit` and `_train_epoch`, unchanged.

    Args:
        config, model: as RecBole's trainers take them.
        folder: the run's folder, which gets its checkpoints.
        identity: what the weights are trained for (see `checkpoint`).
        bar: the stage's progress, advanced once per batch; evaluations pause it.
        resumable: save the training's state every `save_every` steps, and when stopped.
        on_valid: see `OnValid`.

    Attributes:
        curve: the training curve so far.
        stopping: 0, or the number of a signal that asks to save the state and stop before the next step.
    """

    _schedule: LambdaLR | None = None  # set while RecBole's __init__ builds the optimizer

    def __init__(
        self, config: CoraConfig, model: AbstractRecommender, folder: Path, identity: Mapping[str, object],
        bar: Progress, resumable: bool, on_valid: OnValid | None,
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
        self._valid_bar: Progress | None = None  # during an evaluation on valid
        self._last_score = ""
        self._batches: Batches | None = None
        self._resume_at: TrainingState | None = None  # until the first epoch begins
        self._epoch = self._step = 0
        self.curve: Curve = []
        self._losses = LossSum(0.0, 0)
        self._cut_short = False  # the epoch ended early, at `max_steps`
        self.stopping = 0
        self._micro_batches: MicroBatches | None = None
        parts, may_shrink = config["gradient_accumulation"], config.batches_may_shrink
        self._shared = resumable and processes.count() > 1  # earlier stages run in one process only
        if parts > 1 or may_shrink or self._shared:
            if self.enable_scaler:
                raise SettingError("gradient_accumulation does not work with RecBole's enable_scaler; switch one off")
            self._micro_batches = MicroBatches(model.calculate_loss, model, parts, may_shrink)

    def _build_optimizer(self, **options: Any) -> Optimizer:
        """Build RecBole's optimizer and the schedule.

        RecBole would give its optimizer all parameters, a frozen LLM's included; here it gets only the trained ones.
        """
        options.setdefault("params", [p for p in self.model.parameters() if p.requires_grad])
        optimizer: Optimizer = super()._build_optimizer(**options)
        warmup, least, steps = (self.config[k] for k in ("warmup_steps", "min_lr_ratio", "steps_per_epoch"))
        if warmup is not None and steps:
            total = self.config["epochs"] * steps
            self._schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, least))
            optimizer.register_step_post_hook(self._step_schedule)
        return optimizer

    def _step_schedule(self, *_: object) -> None:
        if self._schedule is not None:
            self._schedule.step()

    # -- training ----------------------------------------------------------------------------------------------------

    def _train_epoch(
        self, train_data: AbstractDataLoader, epoch_idx: int, loss_func: Callable[[Interaction], Tensor] | None = None,
        show_progress: bool = False,
    ) -> float:  # fmt: skip
        max_steps = self.config["max_steps"]
        if self._batches is None:
            self._batches = Batches(train_data, self.config["steps_per_epoch"], self._before_step, self._bar)
        self._epoch = epoch_idx
        first = 0
        if self._resume_at is None:
            self._losses = LossSum(0.0, 0)
        else:
            first = self._seek(self._batches, self._resume_at)
            self._resume_at = None
        # A resumed epoch (first > 0) that `max_steps` had cut short is still to be evaluated.
        if max_steps and self._step >= max_steps and not first:
            if not self._cut_short:
                self._save_state(0)
            raise MaxStepsReached
        super()._train_epoch(self._batches, epoch_idx, loss_func or self._micro_batches)
        mean = self._losses.mean()
        self.curve.append({"epoch": epoch_idx + 1, "loss": mean})
        return mean or 0.0  # for the log; RecBole's own sum grows with the number of steps

    def _before_step(self, in_epoch: int) -> bool:
        """Save the state if it is time to, and stop if asked to.

        Args:
            in_epoch: steps of this epoch so far.

        Returns:
            False if `max_steps` is reached, which ends the epoch.
        """
        save_every, max_steps = self.config["save_every"], self.config["max_steps"]
        if self._shared:
            self.stopping = max(processes.gather(self.stopping))  # the signal may have reached only one of them
        self._cut_short = bool(max_steps and self._step >= max_steps)
        if self._cut_short or self.stopping or (save_every and self._step and self._step % save_every == 0):
            self._save_state(in_epoch)
        if self.stopping:
            raise Stopped(
                f"after {self._step} steps, state saved; resume with --resume={self._folder} and the same settings",
                self.stopping,
            )
        self._step += not self._cut_short
        return not self._cut_short

    def _check_nan(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            self._raise_diverged(f"training loss became {loss.item()}")
        self._losses = LossSum(self._losses.total + loss.item(), self._losses.steps + 1)
        self._bar.note(f"train loss {self._losses.mean():.4f}{self._last_score}")

    def _raise_diverged(self, what: str) -> NoReturn:
        """Raise a CoraError that names what diverged, the batch's rows, and the last good state."""
        batch = self._batches.current if self._batches is not None else None
        rows = batch[ROW].tolist() if batch is not None and ROW in batch.interaction else []
        state = training_state.latest(self._folder)
        raise CoraError(
            f"the {what} in step {self._step} (epoch {self._epoch + 1}), on {len(rows)} rows beginning with "
            f"{', '.join(map(str, rows[:5]))}; lower --learning_rate (now {self.config['learning_rate']}); the last "
            f"good state: {state or 'none was saved yet'}"
        )

    # -- the training's state ----------------------------------------------------------------------------------------

    def _save_state(self, in_epoch: int) -> None:
        if not self._resumable or self._batches is None:
            return
        if any(not torch.isfinite(tensor).all() for tensor in checkpoint.trained_state(self.model).values()):
            self._raise_diverged("weights became nan or infinite")  # such a state must not be resumed
        random_states = training_state.random_states()
        best_metrics = dict(self.best_valid_result) if self.best_valid_result else None
        state = TrainingState(
            model=checkpoint.trained_state(self.model),
            numbers=checkpoint.numbers(self.model),
            optimizer=self.optimizer.state_dict(),
            schedule=self._schedule.state_dict() if self._schedule else None,
            random=processes.gather(random_states) if self._shared else [random_states],
            batches=self._batches.position(),
            parts=self._micro_batches.parts if self._micro_batches else None,
            epoch=self._epoch,
            in_epoch=in_epoch,
            step=self._step,
            curve=self.curve,
            losses=self._losses,
            best=Best(self.best_valid_score, best_metrics, self.cur_step),
        )
        if not self._shared or processes.is_main():
            training_state.save(self._folder, state, self._identity, self.config["keep_states"])

    def resume(self, path: Path, state: TrainingState) -> None:
        """Continue from a state that was read from `path`. Raises CheckpointError if it does not fit this training."""
        checkpoint.set_weights(path, self.model, state.model)
        checkpoint.set_numbers(self.model, state.numbers)
        try:
            self.optimizer.load_state_dict(state.optimizer)
        except ValueError as error:
            raise CheckpointError(f"{path} does not fit this training: {error}") from None
        if state.schedule and self._schedule:
            self._schedule.load_state_dict(state.schedule)
        if state.parts and self._micro_batches:
            self._micro_batches.parts = state.parts
        self.best_valid_score, self.best_valid_result, self.cur_step = state.best
        self.start_epoch, self._step = state.epoch, state.step
        self.curve, self._losses = state.curve, state.losses
        self._resume_at = state
        self._bar.start_at(self._step)

    def _seek(self, batches: Batches, state: TrainingState) -> int:
        """Go to a state's next batch and restore the random states; return the batch's number in its epoch."""
        first = batches.seek(state.batches, state.in_epoch)
        one_each = len(state.random) == processes.count()
        training_state.set_random_states(state.random[processes.rank() if one_each else 0])
        return first

    # -- evaluation and checkpoints ----------------------------------------------------------------------------------

    def _valid_epoch(self, valid_data: AbstractDataLoader, show_progress: bool = False) -> tuple[float, Metrics]:
        valid_bar = Progress("evaluate on valid", "row", len(valid_data.dataset), show=self._bar.show, keep=False)
        with self._bar.pause(), valid_bar as self._valid_bar:
            score, result = super()._valid_epoch(valid_data)
        self._valid_bar = None
        if math.isnan(score):
            self._raise_diverged(f"valid {self.valid_metric} became nan, because scores overflow,")
        self._last_score = f", valid {self.valid_metric} {score:.4f}"
        metrics: Metrics = {name: None if math.isnan(value) else value for name, value in result.items()}
        self.curve[-1] |= metrics
        if self._on_valid is not None:
            self._on_valid(self._epoch + 1, metrics)
        return score, result

    def _neg_sample_batch_eval(self, batched_data: tuple[Interaction, Any, Any, Any]) -> Any:
        result = super()._neg_sample_batch_eval(batched_data)
        if self._valid_bar is not None:
            self._valid_bar.update(len(batched_data[0]))
        return result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **options: object) -> None:
        if not self._shared or processes.is_main():
            checkpoint.save(Path(self.saved_model_file), self.model, self._identity)

    def pretrain(self, train_data: AbstractDataLoader, verbose: bool = True, show_progress: bool = False) -> Any:
        """Run RecBole's pre-training (S3Rec, RaCT) and save its last weights: no metric selects among them."""
        result = super().pretrain(train_data, verbose, show_progress)  # type: ignore[misc]
        self._save_checkpoint(self.pretrain_epochs)
        return result

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Save a checkpoint of ours; RecBole would write a pickle outside the run's folder."""
        self._save_checkpoint(epoch)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Refuse RecBole's own checkpoints, which are pickles."""
        raise CheckpointError("RecBole's .pth checkpoints are pickles, which are never read; give the folder of a run")

    def evaluate(
        self, eval_data: AbstractDataLoader, load_best_model: bool = True, model_file: str | None = None, **options: Any
    ) -> Metrics:
        """Evaluate as RecBole does, but read the best weights from a checkpoint of ours."""
        if load_best_model:
            checkpoint.load(Path(model_file or self.saved_model_file), self.model, self._identity)
        metrics: Metrics = super().evaluate(eval_data, load_best_model=False, **options)
        return metrics


def warmup_cosine(step: int, warmup: int, total: int, least: float) -> float:
    """Return the learning rate's factor: linear from 1% over `warmup` steps, then a cosine to `least` at `total`."""
    if step < warmup:
        return 0.01 + 0.99 * step / max(warmup, 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


def make_trainer(
    config: CoraConfig, model: AbstractRecommender, folder: Path, identity: Mapping[str, object], bar: Progress,
    resumable: bool, on_valid: OnValid | None = None,
) -> CoraTrainer:  # fmt: skip
    """Make RecBole's trainer for this model, which may be a special one, with `CoraTrainer` placed before it."""
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    cls: type[CoraTrainer] = type(f"Cora{base.__name__}", (CoraTrainer, base), {})
    return cls(config, model, folder, identity, bar, resumable, on_valid)
