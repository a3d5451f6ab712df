"""One stage of a run: a model on our rows, trained with early stopping and scored on labelled rows."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.dataloader import KnowledgeBasedDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.sampler import KGSampler
from recbole.utils import get_trainer, init_seed

from recbole_cora import processes
from recbole_cora.data import recbole_needs
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_dataset import make_dataset
from recbole_cora.errors import DataError
from recbole_cora.files import content_key
from recbole_cora.metrics import Metrics, auc, logloss, uauc
from recbole_cora.progress import Breaks, Progress
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training import checkpoint, loss_in_parts
from recbole_cora.training import state as training_state
from recbole_cora.training.signals import stop_between_steps
from recbole_cora.training.state import Curve
from recbole_cora.training.trainer import MaxStepsReached, OnValid, make_trainer

log = logging.getLogger()

#: A part of the cache keys of all results of trained stages (encoders, codes, LoRAs, scores). Raise it when the same
#: settings and rows no longer lead to the same weights or scores, after a change to this file, `trainer`,
#: `recbole_dataset`, or one of our models.
VERSION = 1

#: Builds a model from the config and the train dataset, the two arguments of RecBole's model classes.
ModelMaker = Callable[[CoraConfig, Dataset], AbstractRecommender]


class Stage:
    """A model, the loaders of its rows, and its identity.

    Args:
        config: the stage's settings, which name the model.
        ratings: the rows of all three splits.
        make_model: builds the model; by default its class.
        extra_identity: entries to add to `identity`.
        history_length: give each row this many of its user's last liked items, for a sequential encoder. The rows of a
            sequential model always have them.

    Attributes:
        model: the model on the config's device, initialised from the seed.
        identity: what a checkpoint of the model is valid for: model, vocabulary, split, and `extra_identity`.
        train, valid, test: RecBole's loaders of the splits.
        seconds: wall-clock seconds by part.
        curve: the training curve, one entry per epoch.
    """

    def __init__(
        self,
        config: CoraConfig,
        ratings: Ratings,
        make_model: ModelMaker | None = None,
        extra_identity: Mapping[str, object] | None = None,
        history_length: int | None = None,
    ) -> None:
        self.config, self.ratings = config, ratings
        self.seconds: dict[str, float] = {}
        self.curve: Curve = []
        make_model = make_model or config.model_class
        recbole_needs.check_files(config.final_config_dict)
        with recbole_needs.one_line(config.model_class):
            self._dataset = dataset = make_dataset(config, ratings, history_length)
            self._splits = splits = dataset.build()
            self.train, self.valid, self.test = _loaders(config, dataset, splits)
        recbole_needs.check_dataset(config.final_config_dict, splits[0])
        # After the data is built: a model must start from the same weights whether its frozen parts were cached or not.
        init_seed(config["seed"], config["reproducibility"])
        with recbole_needs.one_line(config.model_class):
            self.model = make_model(config, splits[0]).to(config["device"])
        vocabulary = ["\x1f".join(t.tolist()).encode() for t in (ratings.user_tokens, ratings.item_tokens)]
        self.identity: dict[str, object] = {
            "model": config["model"],
            "vocabulary of users and items": content_key(*vocabulary),
            "split of the rows": ratings.key(),
            **(extra_identity or {}),
        }

    def fit(
        self,
        folder: Path,
        title: str,
        *,
        verbose: bool = False,
        resumable: bool = False,
        on_valid: OnValid | None = None,
    ) -> None:
        """Train with early stopping on the valid metric, and save the best checkpoint in `folder`.

        A model without trainable parameters is saved without training.

        Args:
            folder: gets the checkpoint and, if resumable, the training's states.
            title: label of the progress bar.
            verbose: log each epoch, as RecBole does.
            resumable: resume from the last state in `folder`, if there is one. Save the state at regular intervals and
                when asked to stop.
            on_valid: called after each evaluation with the number of epochs so far and the valid metrics.

        Raises:
            DataError: early stopping's metric is not defined on the valid rows.
            SettingError: several processes cannot share the model, or its loss cannot be computed in parts.
            Stopped: after SIGTERM, SIGHUP or Ctrl-C, once a resumable training has saved its state.
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
        with self._progress(title, bounded_by_user=resumable) as bar:
            trainer = make_trainer(config, self.model, folder, self.identity, bar, resumable, on_valid)
            if resumable:
                processes.share(self.model, config["seed"])
                if latest := training_state.load(folder, self.identity):
                    trainer.resume(*latest)
                    log.info(f"resuming from {latest[0]}")
            with stop_between_steps(trainer) if resumable else nullcontext(), suppress(MaxStepsReached):
                trainer.fit(self.train, valid, verbose=verbose, show_progress=False)
            if resumable:
                processes.wait()
            self.curve = trainer.curve
            bar.complete()  # early stopping may have ended it
        self.seconds["train"] = perf_counter() - started

    def _progress(self, title: str, bounded_by_user: bool) -> Progress:
        """Return the progress of the training: steps up to the last epoch or `max_steps`, whichever comes first.

        Args:
            bounded_by_user: True if the user's `--max_steps` bounds this stage.
        """
        config = self.config
        epoch = config["steps_per_epoch"] or len(self.train)
        total = min(config["epochs"] * epoch, config["max_steps"] or math.inf)
        every = min(config["eval_step"], config["epochs"]) * epoch
        return Progress(
            title, "step", int(total), show=config.show_progress,
            breaks=Breaks("evaluations on valid", every) if every > 0 else None,
            remedy="early stopping may end it sooner" + ", --max_steps= bounds it" * bounded_by_user,
        )  # fmt: skip

    def _check_parts(self, shared: bool) -> None:
        """Refuse a model whose loss cannot be computed in parts, if the settings split batches into parts.

        Args:
            shared: True if several processes would share each batch.
        """
        config = self.config
        splitting = {
            f"gradient_accumulation: {config['gradient_accumulation']}": config["gradient_accumulation"] > 1,
            "train_batch_size: auto": config.batches_may_shrink,
            f"{processes.count()} processes": shared and processes.count() > 1,
        }
        if any(splitting.values()):
            why = " and ".join(setting for setting, splits in splitting.items() if splits)
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])
            loss_in_parts.check(self.model, trainer, self.train, config["device"], why)

    def load(self, folder: Path) -> None:
        """Load the weights in a run's folder. Raises CheckpointError if they are for another model or other data."""
        checkpoint.load(folder / checkpoint.WEIGHTS, self.model, self.identity)

    def score(
        self,
        split: str,
        predict: Callable[[Interaction], torch.Tensor] | None = None,
        title: str = "",
        remedy: str = "",
    ) -> NDArray[np.float32]:
        """Return the model's scores [N] of a split's rows: the same rows, in the same order, as `rows` yields.

        Args:
            split: "train", "valid" or "test".
            predict: returns the scores of a batch; by default the model's `predict`.
            title: label of the progress bar; by default "score <split>".
            remedy: what spares this scoring, for the estimate of a long one.
        """
        loader = self._loader(split)
        predict = predict or self.model.predict
        self.model.eval()
        scores = []
        title, show = title or f"score {split}", self.config.show_progress
        bar = Progress(title, "row", len(loader.dataset), show=show, keep=False, remedy=remedy)
        with torch.no_grad(), bar:
            for interaction, *_ in loader:
                scores.append(predict(interaction.to(self.config["device"])).float().cpu().reshape(-1))
                bar.update(len(scores[-1]))
        return torch.cat(scores).numpy()

    def metrics(
        self,
        split: str,
        scores: NDArray[np.float32],
        chosen: NDArray[np.bool_] | None = None,
        *,
        logits: bool | None = None,
    ) -> Metrics:
        """Return AUC, UAUC and LogLoss of scores [N] of the rows of a split.

        Args:
            split: "valid" or "test"; "train" only for a model that is trained on all train rows.
            scores: as `score` returns them.
            chosen: a boolean mask [N] of the rows to use; by default all.
            logits: True if the scores are logits, False if probabilities; by default as the model declares.

        Returns:
            The metrics by name; None for a metric that the rows do not determine.
        """
        rows = self.ratings.rows(split)
        if chosen is not None:
            rows, scores = rows[chosen], scores[chosen]
        label, user = self.ratings.label[rows], self.ratings.user[rows]
        logits = self.config.scores_are_logits if logits is None else logits
        values = {"auc": auc(scores, label), "uauc": uauc(user, scores, label)[0]}
        values["logloss"] = logloss(scores, label, logits=logits) if len(rows) else math.nan
        return {metric: None if math.isnan(value) else value for metric, value in values.items()}

    def _loader(self, split: str) -> AbstractDataLoader:
        """Return a loader of a split's rows in order; `self.train` shuffles them and may draw negative samples."""
        if split == "train":
            return get_dataloader(self.config, "valid")(self.config, self._splits[0], None, shuffle=False)
        return {"valid": self.valid, "test": self.test}[split]

    def rows(self, split: str) -> Iterator[Interaction]:
        """Yield the interactions of a split in order, in batches.

        "train" has the rows that the model is trained on: only the liked ones if it ignores labels.
        """
        dataset, size = self._splits[SPLITS.index(split)], self.config["eval_batch_size"]
        for start in range(0, len(dataset), size):
            yield dataset.inter_feat[start : start + size].to(self.config["device"])

    def all_rows(self) -> Interaction:
        """Return the interactions of all rows of all splits, in order."""
        return self._dataset.inter_feat

    def _early_stopping_rows(self) -> AbstractDataLoader:
        """Return the loader of the rows for early stopping: the valid rows, or a fixed random `valid_fraction` of them.

        Raises:
            DataError: early stopping's metric is not defined on these rows.
        """
        fraction, metric, rows = self.config["valid_fraction"], self.config["valid_metric"], self.ratings.rows("valid")
        places = np.arange(len(rows))
        if fraction < 1:
            places = np.sort(np.random.default_rng(0).permutation(len(rows))[: max(1, round(fraction * len(rows)))])
        label, user = self.ratings.label[rows[places]], self.ratings.user[rows[places]]
        constant = np.zeros(len(places))
        values = {"auc": auc(constant, label), "uauc": uauc(user, constant, label)[0]}
        if math.isnan(values.get(str(metric).lower(), 0.0)):
            raise DataError(
                f"{metric} is not defined on the {len(places)} valid rows (valid_fraction: {fraction}): it needs both "
                "liked and disliked rows (for UAUC, of one user); use more valid rows, or another --valid_metric"
            )
        if fraction >= 1:
            return self.valid
        split = self._splits[1]
        part = split.copy(split.inter_feat[torch.from_numpy(places)])
        return get_dataloader(self.config, "valid")(self.config, part, None, shuffle=False)


def _loaders(
    config: CoraConfig, dataset: Dataset, splits: list[Dataset]
) -> tuple[AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]:
    """Return RecBole's loaders of the train, valid and test rows for this model."""
    samplers = create_samplers(config, dataset, splits)
    train = get_dataloader(config, "train")
    if issubclass(train, KnowledgeBasedDataLoader):
        # It is "none" for a model that reads labels, but the sampler of triples needs a distribution.
        distribution = config["train_neg_sample_args"]["distribution"]
        entities = KGSampler(dataset, "uniform" if distribution == "none" else distribution)
        loader = train(config, splits[0], samplers[0], entities, shuffle=config["shuffle"])
    else:
        loader = train(config, splits[0], samplers[0], shuffle=config["shuffle"])
    valid, test = (
        get_dataloader(config, phase)(config, split, sampler, shuffle=False)
        for phase, split, sampler in zip(("valid", "test"), splits[1:], samplers[1:], strict=True)
    )
    return loader, valid, test


def peak_memory_mb() -> float:
    """Return this process's peak memory in MB: on the GPU if there is one, otherwise its resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows, where RecBole's ray does not run either

    scale = 2**20 if os.uname().sysname == "Darwin" else 2**10  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
