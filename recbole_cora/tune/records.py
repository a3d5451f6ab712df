"""A search, its trials and its report, as dataclasses and the JSON that stores them.

tune.json                 Search: everything needed to resume a search
trials/<name>/trial.json  TrialRecord: how far one trial got
trials.json               SearchReport: the search, its trials, and the scores of the best one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_cora.files import write_json
from recbole_cora.tune.space import Draw

Values = dict[str, object]  # settings by key
Metrics = dict[str, float | None]
_SEARCH_FILE = "tune.json"


@dataclass(frozen=True)
class Search:
    """Definition of a search.

    Attributes:
        metric: the valid metric that compares trials: auc, uauc or logloss.
        higher_is_better: False for logloss.
        fixed: the settings that all trials share.
        working_dir: the folder, as an absolute path, from which relative paths in the settings start.
        seed: seeds the draws.
        epochs: the most epochs that a trial trains.
        method: random, grid, optuna or hyperopt.
        scheduler: none or asha.
        num_samples: the number of trials; a grid ignores it.
        jobs: trials at once.
        cpus, gpus: what each trial gets; None means an equal share of the machine.
        space: how each searched setting is drawn.
        planned: the searched settings of each trial by its name; empty if a searcher draws them one by one.
    """

    model: str
    dataset: str
    metric: str
    higher_is_better: bool
    fixed: Values
    working_dir: str
    seed: int
    epochs: int
    method: str
    scheduler: str
    num_samples: int
    jobs: int
    cpus: int | None
    gpus: float | None
    space: dict[str, Draw]
    planned: Mapping[str, Values]

    def as_json(self) -> dict[str, object]:
        """Return the content of tune.json."""
        return {
            "model": self.model, "dataset": self.dataset, "metric": self.metric, "bigger": self.higher_is_better,
            "fixed": self.fixed, "at": self.working_dir, "seed": self.seed, "epochs": self.epochs,
            "search": self.method, "scheduler": self.scheduler, "num_samples": self.num_samples, "jobs": self.jobs,
            "cpus": self.cpus, "gpus": self.gpus, "drawn": self.planned,
            "space": {key: [draw.kind, draw.values] for key, draw in self.space.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Search:
        """Return the search that a tune.json describes. Raises KeyError or TypeError if it describes none."""
        return cls(
            model=content["model"], dataset=content["dataset"], metric=content["metric"],
            higher_is_better=content["bigger"], fixed=content["fixed"], working_dir=content["at"],
            seed=content["seed"], epochs=content["epochs"], method=content["search"],
            scheduler=content["scheduler"], num_samples=content["num_samples"], jobs=content["jobs"],
            cpus=content["cpus"], gpus=content["gpus"],
            space={key: Draw(*draw) for key, draw in content["space"].items()}, planned=content["drawn"],
        )  # fmt: skip


def write_search(folder: Path, search: Search) -> None:
    """Write tune.json into the folder of the search."""
    write_json(folder / _SEARCH_FILE, search.as_json())


def read_search(folder: Path) -> Search:
    """Return the search of a folder. Raises OSError, ValueError, KeyError or TypeError if its tune.json is damaged."""
    return Search.from_json(json.loads((folder / _SEARCH_FILE).read_text(encoding="utf-8")))


def holds_search(folder: Path) -> bool:
    """Return whether a folder contains a search."""
    try:
        return (folder / _SEARCH_FILE).is_file()
    except OSError:  # the name is too long
        return False


@dataclass(frozen=True)
class Resources:
    """The share of a machine that each trial gets."""

    cpus: int
    gpus: float

    @property
    def settings(self) -> Values:
        """Settings that keep a trial without a GPU from using one."""
        return {} if self.gpus else {"use_gpu": False}


@dataclass(frozen=True)
class TrialRecord:
    """One trial: its settings, how far it got, and how it ended.

    Attributes:
        settings: only the searched settings.
        status: waiting, running, finished, stopped early or failed.
        why: the reason of a failure, else "".
        best: its best valid metric; None before the first evaluation and after a failure.
        evaluations: the epoch and the valid metric of each evaluation.
        seconds: its running time so far, earlier processes included.
        process: the id of its last process; None if none has started.
    """

    name: str
    settings: Values
    status: str = "running"
    why: str = ""
    best: float | None = None
    evaluations: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    process: int | None = None

    def as_json(self) -> dict[str, object]:
        """Return the content of trial.json."""
        content: dict[str, object] = {
            "name": self.name, "status": self.status, "why": self.why, "settings": self.settings, "best": self.best,
            "evaluations": self.evaluations, "seconds": self.seconds,
        }  # fmt: skip
        return content if self.process is None else {**content, "process": self.process}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrialRecord:
        """Return the record that a trial.json holds. Raises KeyError or TypeError if it holds none."""
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        values["evaluations"] = tuple((epoch, value) for epoch, value in content["evaluations"])
        return cls(**values)


@dataclass(frozen=True)
class BestTrial:
    """The best trial: its settings, both fixed and searched, and its scores."""

    name: str
    settings: Values
    valid: Metrics
    test: Metrics


@dataclass(frozen=True)
class SearchReport:
    """A search, its trials and their outcome.

    Attributes:
        trials: the records of all trials, by name.
        best: None until the search is complete.
        seconds: how long the search took in this process; None while it runs.
    """

    search: Search
    resources: Resources
    trials: list[TrialRecord]
    best: BestTrial | None = None
    seconds: float | None = None

    def best_first(self) -> list[TrialRecord]:
        """Return the trials from best to worst, those without a value last."""
        sign = -1 if self.search.higher_is_better else 1
        return sorted(self.trials, key=lambda trial: (trial.best is None, sign * (trial.best or 0.0)))

    def as_json(self) -> dict[str, object]:
        """Return the content of trials.json."""
        content = self.search.as_json()
        del content["space"]
        content |= {
            "cpus": self.resources.cpus, "gpus": self.resources.gpus, "device": self.resources.settings,
            "space": list(self.search.space), "trials": [trial.as_json() for trial in self.trials],
            "best": None if self.best is None else vars(self.best),
        }  # fmt: skip
        return content if self.seconds is None else {**content, "seconds": self.seconds}
