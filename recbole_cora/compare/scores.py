"""The scored test rows of a comparison's runs, resampled by user.

A run of compare keeps its scored test rows beside its result. Runs that finished before compare did so, and runs whose
files are damaged, stay valid; their system is reported without statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_cora.compare.runs import Run
from recbole_cora.files import content_key
from recbole_cora.statistics.bootstrap import Resampled, resample
from recbole_cora.statistics.users import mean_over_seeds, statistics_of

#: A file's path, time and size: another content has another identity.
_Identity = tuple[str, int, int]


class ScoresError(ValueError):
    """Scored rows that cannot be used; the message is the reason in the report."""


@dataclass(frozen=True)
class ScoredRows:
    """Scored test rows of one run, [N] each.

    Attributes:
        users: the users' tokens.
        labels: 0 or 1.
        rows_key: a key of users, items and labels, in order: the same for runs on the same rows.
    """

    users: NDArray[Any]
    labels: NDArray[Any]
    scores: NDArray[np.float64]
    rows_key: str


def read_scores(path: Path) -> ScoredRows:
    """Return the content of a run's scores.test.csv.

    Raises:
        ScoresError: the file is damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            path,
            dtype={"user": str, "item": str},
            keep_default_na=False,
            float_precision="round_trip",
            encoding="utf-8",
        )
        users, items = table["user"].to_numpy(str), table["item"].to_numpy(str)
        labels, scores = table["label"].to_numpy(np.int64), table.iloc[:, 3].to_numpy(np.float64)
    except (OSError, ValueError, KeyError, IndexError):  # pandas' own errors are ValueErrors
        raise ScoresError("its scores.test.csv is damaged") from None
    if np.isnan(scores).any():
        raise ScoresError("its scores.test.csv holds rows without a score")
    rows_key = content_key("\n".join(users).encode(), "\n".join(items).encode(), labels.tobytes())
    return ScoredRows(users, labels, scores, rows_key)


@lru_cache(maxsize=256)  # reports are written after each run; a system without a new run is not resampled again
def _resampled(files: tuple[_Identity, ...]) -> tuple[Resampled, str, int]:
    """Return a system's resampled metrics, the key of its rows and the number of users.

    Raises:
        ScoresError: the files cannot be used.
    """
    runs = [read_scores(Path(path)) for path, _, _ in files]
    if len({run.rows_key for run in runs}) > 1:
        raise ScoresError("its test rows differ between seeds")
    users = len(np.unique(runs[0].users))
    if users < 2:
        raise ScoresError("its test rows are of fewer than two users")
    statistics = mean_over_seeds([statistics_of(run.users, run.labels, run.scores) for run in runs])
    return resample(statistics), runs[0].rows_key, users


@dataclass(frozen=True)
class Samples:
    """Resampled metrics of an experiment's systems.

    Attributes:
        by_system: the systems whose finished runs all have scores of the same test rows.
        users: the number of users with test rows; 0 if `by_system` is empty.
        without: why another system with a finished run has no statistics.
    """

    by_system: Mapping[str, Resampled]
    users: int
    without: Mapping[str, str]


def samples_of(runs: Sequence[Run]) -> Samples:
    """Return the resampled metrics of the systems of these runs, by name."""
    usable: dict[str, tuple[Resampled, str, int]] = {}
    without: dict[str, str] = {}
    for name in dict.fromkeys(run.system.name for run in runs):
        finished = [run for run in runs if run.system.name == name and run.result() is not None]
        files = [path for run in finished if (path := run.scores_file()) is not None]
        if not finished:
            continue
        if len(files) < len(finished):
            without[name] = "finished before compare kept scores"
            continue
        try:
            usable[name] = _resampled(tuple(_identity(path) for path in files))
        except ScoresError as error:
            without[name] = str(error)
    if not usable:
        return Samples({}, 0, without)
    (common_key, _), *_ = Counter(rows_key for _, rows_key, _ in usable.values()).most_common(1)
    by_system = {name: resampled for name, (resampled, rows_key, _) in usable.items() if rows_key == common_key}
    reference = next(iter(by_system))
    without |= {name: f"its test rows are not those of {reference}" for name in usable if name not in by_system}
    return Samples(by_system, usable[reference][2], without)


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size
