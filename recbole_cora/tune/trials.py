"""The records of a search's trials on disk: `trials/<name>/trial.json`, each written whole after every change."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from recbole_cora.files import write_json
from recbole_cora.tune.records import TrialRecord, Values

#: Statuses of trials that a resumed search does not run again. It retries failed trials, because memory or a machine
#: may be available again.
DONE = ("finished", "stopped early")
ENDED = (*DONE, "failed")
_RECORD_FILE = "trial.json"


class RunningTrial:
    """A trial that runs in this process and writes its record; it continues the record of a killed process.

    Args:
        folder: the folder of the search.
        settings: the searched settings.
        higher_is_better: whether a higher metric is better.
    """

    def __init__(self, folder: Path, name: str, settings: Values, higher_is_better: bool) -> None:
        self.folder = folder / "trials" / name
        self._higher_is_better = higher_is_better
        record = _read_record(self.folder) or TrialRecord(name, settings)
        self._started = perf_counter() - record.seconds
        self._record = replace(record, status="running", why="", process=os.getpid())
        self._write()

    def add_evaluation(self, epoch: int, value: float) -> None:
        """Record the valid metric after an epoch, in place of what a killed process recorded from that epoch on."""
        evaluations = (*(entry for entry in self._record.evaluations if entry[0] < epoch), (epoch, value))
        best = (max if self._higher_is_better else min)(value for _, value in evaluations)
        self._record = replace(self._record, evaluations=evaluations, best=best)
        self._write()

    def finish(self) -> None:
        """Record that the trial trained to its end."""
        self._record = replace(self._record, status="finished")
        self._write()

    def fail(self, why: str) -> None:
        """Record a failure and its reason; earlier evaluations then no longer count."""
        self._record = replace(self._record, status="failed", why=why, best=None)
        self._write()

    def _write(self) -> None:
        self._record = replace(self._record, seconds=round(perf_counter() - self._started, 2))
        write_json(self.folder / _RECORD_FILE, self._record.as_json())


def read_trials(folder: Path) -> list[TrialRecord]:
    """Return the record of every trial that has started, by name."""
    records = (_read_record(path.parent) for path in sorted(folder.glob(f"trials/*/{_RECORD_FILE}")))
    return [record for record in records if record is not None]


def note_end(folder: Path, name: str, settings: Values, status: str, why: str = "") -> None:
    """Record the end of a trial that could not do so itself; an end that is already recorded stays."""
    trial_dir = folder / "trials" / name
    record = _read_record(trial_dir) or TrialRecord(name, settings)
    if record.status not in ENDED:
        best = None if status == "failed" else record.best
        write_json(trial_dir / _RECORD_FILE, replace(record, status=status, why=why, best=best).as_json())


def note_waiting(folder: Path, records: list[TrialRecord]) -> None:
    """Record that these trials will run again or be resumed, so that their earlier end no longer counts."""
    for record in records:
        waiting = replace(record, status="waiting", why="")
        write_json(folder / "trials" / record.name / _RECORD_FILE, waiting.as_json())


def _read_record(trial_dir: Path) -> TrialRecord | None:
    """Return the record of a trial; None if there is none, or if it is damaged."""
    try:
        return TrialRecord.from_json(json.loads((trial_dir / _RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
