"""One stage of a run: a model on our rows, trained with early stopping and scored on labelled rows."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import KnowledgeBasedDataLoader
from recbole.data.utils import create_samplers, get_dataloader
from recbole.sampler import KGSampler
from recbole.utils import get_trainer, init_seed
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recbole_cora import processes
from recbole_cora.data import recbole_needs
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_dataset import make_dataset
from recbole_cora.errors import DataError
from recbole_cora.files import content_key
from recbole_cora.metrics import auc, logloss, uauc
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training import checkpoint, loss_in_parts
from recbole_cora.training import state as training_state
from recbole_cora.training.trainer import Enough, make_trainer

log = logging.getLogger()

#: Of what a stage learns, in the keys of all that trained stages leave in the cache (encoders, codes, LoRAs, scores).
#: Raise it where the same settings and rows no longer train to the same weights or scores: after a change to this file,
#: `trainer`, `rows_dataset`, or one of our models.
VERSION = 1

#: Builds a model from (config, train dataset); RecBole's models take just these two.
ModelMaker = Callable[[Any, Any], Any]


class Stage:
    """A model, its loaders and its identity.

    Args:
        make: builds the model; its class, unless given.
        also: more of the identity.
        history_length: give each row its user's last so many liked items, as a sequential encoder reads them; a
            sequential model's rows always have them.

    Attributes:
        model: on the config's device, freshly initialised under the seed.
        identity: what a checkpoint of it is for: model, vocabulary, split, and whatever `also` names.
        seconds: wall-clock seconds by part.
        curve: of each epoch trained here: its number, the mean loss of its steps, and the valid metrics.
    """

    def __init__(
        self,
        config: CoraConfig,
        ratings: Ratings,
        make: ModelMaker | None = None,
        also: dict[str, Any] | None = None,
        history_length: int | None = None,
    ) -> None:
        self.config, self.ratings = config, ratings
        self.seconds: dict[str, float] = {}
        self.curve: list[dict[str, Any]] = []
        make = make or config.model_class
        recbole_needs.check_files(config.final_config_dict)
        with recbole_needs.one_line(config.model_class):
            self._dataset = dataset = make_dataset(config, ratings, history_length)
            self._splits = splits = dataset.build()
            self.train, self.valid, self.test = _loaders(config, dataset, splits)
        recbole_needs.check_dataset(config.final_config_dict, splits[0])
        # After the data, so that a model starts alike whether its frozen parts were made now or lay in the cache.
        init_seed(config["seed"], config["reproducibility"])
        with recbole_needs.one_line(config.model_class):
            self.model = make(config, splits[0]).to(config["device"])
        vocabulary = ["\x1f".join(t.tolist()).encode() for t in (ratings.user_tokens, ratings.item_tokens)]
        self.identity = {
            "model": config["model"],
            "vocabulary of users and items": content_key(*vocabulary),
            "split of the rows": ratings.key(),
            **(also or {}),
        }

    def fit(
        self,
        folder: Path,
        title: str,
        *,
        verbose: bool = False,
        resumable: bool = False,
        on_valid: Callable[[int, dict[str, float | None]], None] | None = None,
    ) -> None:
        """Train with early stopping on the valid metric; `folder` gets the best checkpoint.

        A model without trainable parameters is saved as it is.

        Args:
            resumable: save the training's state now and then, and where asked to stop; go on from one that is there.
            on_valid: called after each evaluation with the number of epochs so far and the valid metrics.

        Raises:
            DataError: the valid rows do not determine the metric that early stopping goes by.
            SettingError: a model that several processes cannot share, or whose loss cannot be computed in parts.
            Stopped: SIGTERM, SIGHUP or Ctrl-C came; a resumable training has saved its state. A second one does not
                wait.
        """
        started = perf_counter()
        config = self.config
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            checkpoint.save(folder / checkpoint.WEIGHTS, self.model, self.identity)
            if resumable:
                processes.share(self.model, config["seed"], trains=False)
            return
        valid = self._early_stopping_rows()
        self._check_parts(resumable)
        batches = config["epochs"] * (config["steps_per_epoch"] or len(self.train))
        options = {"desc": title, "unit": "step", "disable": not config.show_progress, "dynamic_ncols": True}
        with logging_redirect_tqdm(), tqdm(total=batches, **options) as bar:
            trainer = make_trainer(config, self.model, folder, self.identity, bar, resumable, on_valid)
            if resumable:
                processes.share(self.model, config["seed"])
                if saved := training_state.load(folder, self.identity):
                    trainer.go_on_from(*saved)
                    log.info(f"going on from {saved[0]}")
            with _stops_between_steps(trainer) if resumable else nullcontext(), suppress(Enough):
                trainer.fit(self.train, valid, verbose=verbose, show_progress=False)
            if resumable:
                processes.wait()
            self.curve = trainer.curve
            bar.total = bar.n  # early stopping: the bar ends where the training did
            bar.refresh()
        self.seconds["train"] = perf_counter() - started

    def _check_parts(self, shared: bool) -> None:
        """Where a step's batch is read in parts, refuse a model whose loss would be another. `shared`: by processes."""
        config = self.config
        asking = {
            f"gradient_accumulation: {config['gradient_accumulation']}": config["gradient_accumulation"] > 1,
            "train_batch_size: auto": config.batches_may_shrink,
            f"{processes.count()} processes": shared and processes.count() > 1,
        }
        if any(asking.values()):
            why = " and ".join(key for key, asks in asking.items() if asks)
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])
            loss_in_parts.check(self.model, trainer, self.train, config["device"], why)

    def load(self, folder: Path) -> None:
        """Put a run's trained weights into the model. Raises CheckpointError for another model or other data."""
        checkpoint.load(folder / checkpoint.WEIGHTS, self.model, self.identity)

    def score(self, split: str, predict: Callable[[Any], torch.Tensor] | None = None, title: str = "") -> np.ndarray:
        """Scores of a split's rows, in order: [N]; of "train", of the rows that the model is trained on, as in `rows`.

        Args:
            predict: the model's own, unless another is given.
        """
        loader = self._loader(split)
        predict = predict or self.model.predict
        self.model.eval()
        options = {"desc": title or f"score {split}", "unit": "row", "dynamic_ncols": True, "leave": False}
        scores = []
        with (
            torch.no_grad(),
            tqdm(total=len(loader.dataset), disable=not self.config.show_progress, **options) as bar,
        ):
            for interaction, *_ in loader:
                scores.append(predict(interaction.to(self.config["device"])).float().cpu().reshape(-1))
                bar.update(len(scores[-1]))
        return torch.cat(scores).numpy()

    def metrics(
        self, split: str, scores: np.ndarray, only: np.ndarray | None = None, *, logits: bool | None = None
    ) -> dict[str, float | None]:
        """AUC, UAUC and LogLoss of scores [N] of a split's rows, as RecBole's evaluator gives them while training.

        Args:
            only: of these rows [N] alone; a metric that they do not determine is None.
        """
        rows = self.ratings.rows(split)
        if only is not None:
            rows, scores = rows[only], scores[only]
        label, user = self.ratings.label[rows], self.ratings.user[rows]
        logits = self.config.scores_are_logits if logits is None else logits
        found = {"auc": auc(scores, label), "uauc": uauc(user, scores, label)[0]}
        found["logloss"] = logloss(scores, label, logits=logits) if len(rows) else math.nan
        return {metric: None if math.isnan(value) else value for metric, value in found.items()}

    def _loader(self, split: str) -> Any:
        """The loader that keeps the order of a split's rows; `self.train` shuffles, and may draw negative samples."""
        if split == "train":
            return get_dataloader(self.config, "valid")(self.config, self._splits[0], None, shuffle=False)
        return {"valid": self.valid, "test": self.test}[split]

    def rows(self, split: str) -> Iterator[Any]:
        """A split's interactions in order, in batches; of "train", the rows that the model is trained on: the liked
        ones alone, where it ignores labels."""
        dataset, size = self._splits[SPLITS.index(split)], self.config["eval_batch_size"]
        for start in range(0, len(dataset), size):
            yield dataset.inter_feat[start : start + size].to(self.config["device"])

    def all_rows(self) -> Any:
        """Every row's interaction, in order."""
        return self._dataset.inter_feat

    def _early_stopping_rows(self) -> Any:
        """The valid loader, over a fixed random share of the rows where `valid_fraction` asks for one.

        Raises:
            DataError: these rows do not determine the metric that early stopping goes by.
        """
        fraction, metric, rows = self.config["valid_fraction"], self.config["valid_metric"], self.ratings.rows("valid")
        chosen = np.arange(len(rows))
        if fraction < 1:
            chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: max(1, round(fraction * len(rows)))])
        label, user = self.ratings.label[rows[chosen]], self.ratings.user[rows[chosen]]
        constant = np.zeros(len(chosen))
        found = {"auc": auc(constant, label), "uauc": uauc(user, constant, label)[0]}.get(str(metric).lower(), 0.0)
        if math.isnan(found):
            raise DataError(
                f"{metric} is not defined on the {len(chosen)} valid rows (valid_fraction: {fraction}): they lack "
                "liked or not liked ones (UAUC: a user with both); take more of them, or another --valid_metric"
            )
        if fraction >= 1:
            return self.valid
        split = self._splits[1]
        part = split.copy(split.inter_feat[torch.from_numpy(chosen)])
        return get_dataloader(self.config, "valid")(self.config, part, None, shuffle=False)


def _loaders(config: CoraConfig, dataset: Any, splits: list[Any]) -> tuple[Any, Any, Any]:
    """RecBole's loaders of the three splits for this model."""
    samplers = create_samplers(config, dataset, splits)
    train = get_dataloader(config, "train")
    if issubclass(train, KnowledgeBasedDataLoader):
        drawing = config["train_neg_sample_args"]["distribution"]  # "none" where the labels are read; triples need one
        entities = KGSampler(dataset, "uniform" if drawing == "none" else drawing)
        loader = train(config, splits[0], samplers[0], entities, shuffle=config["shuffle"])
    else:
        loader = train(config, splits[0], samplers[0], shuffle=config["shuffle"])
    valid, test = (
        get_dataloader(config, phase)(config, split, sampler, shuffle=False)
        for phase, split, sampler in zip(("valid", "test"), splits[1:], samplers[1:], strict=True)
    )
    return loader, valid, test


@contextmanager
def _stops_between_steps(trainer: Any) -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C ask the trainer to stop; a second one ends the process as ever.

    A signal that is ignored stays so, as SIGHUP does under nohup. A second SIGHUP is no impatience: a terminal that is
    closed sends one, and its shell another.
    """

    def ask(number: int, frame: Any) -> None:
        trainer.stopping = number
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else handler)
        log.warning(f"{signal.Signals(number).name}: stopping after this step")

    wanted = [s for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {each: signal.signal(each, ask) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def peak_memory_mb() -> float:
    """Largest memory of this process so far: the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows, where RecBole's ray does not run either

    scale = 2**20 if os.uname().sysname == "Darwin" else 2**10  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
