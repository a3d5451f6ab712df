"""The runs of an experiment, each in its own process, so that a failed or killed run does not affect the others.

Finished runs are kept by content (model, settings, seed, the dataset's files, version) and never run again; failed ones
are retried by the next command. No run outlives the driver. If a signal asks it to stop, the driver stops its runs and
waits until each has saved its state; if the driver is killed, the system stops its runs (see `child.py`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from recbole_cora.compare.experiment import Experiment, System
from recbole_cora.errors import DataError, Stopped, WriteError
from recbole_cora.files import content_key, write_whole
from recbole_cora.progress import Progress, write_line

Result = dict[str, Any]  # the content of a run's result.json

_SETTINGS, _LOG = "settings.yaml", "log.txt"
#: Seconds between two checks of the runs in progress.
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Run:
    """One system with one seed; `folder` holds its settings, its log and, once it has finished, its result."""

    system: System
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """The run's name on the screen and in the report."""
        return f"{self.system.name}, seed {self.seed}"

    def result(self) -> Result | None:
        """Return the content of the run's result.json; None if the run has not finished."""
        finished = self._finished()
        return None if finished is None else finished[1]

    def scores_file(self) -> Path | None:
        """Return the file of the finished run's scored test rows; None if the run has not finished or kept none."""
        finished = self._finished()
        path = None if finished is None else finished[0] / "scores.test.csv"
        return path if path is not None and path.is_file() else None

    def _finished(self) -> tuple[Path, Result] | None:
        """Return the folder and the result of the finished run."""
        for path in sorted(self.folder.glob("*/result.json")):
            try:
                result: Result = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # damaged: the run is repeated in a new folder beside this one
            return path.parent, result
        return None


def plan(experiment: Experiment, out: Path, dataset_key: str) -> list[Run]:
    """Return every run of the experiment, finished or not, and write its settings to its folder.

    Raises:
        SettingError: a system does not have a setting.
        WriteError: the settings cannot be written.
    """
    runs = []
    for seed in experiment.seeds:  # all systems with the first seed before any with the second
        for system in experiment.systems:
            settings = experiment.run_settings(system, seed)
            name = re.sub(r"[^\w.-]+", "-", system.name)
            key = content_key(version("recbole-cora"), dataset_key, system.model, settings.content())
            run = Run(system, seed, out / "runs" / f"{name}-seed{seed}-{key}")
            chosen = {k: v for k, v in settings.chosen.items() if k not in ("checkpoint_dir", "show_progress")}
            content = {"model": system.model, "dataset": experiment.dataset, **chosen, "save_scores": True}
            _write_text(run.folder / _SETTINGS, yaml.safe_dump(content, sort_keys=False))
            runs.append(run)
    return runs


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def run_missing(
    runs: list[Run], jobs: int, finished: Callable[[dict[str, str]], object], show_progress: bool
) -> dict[str, str]:
    """Execute the runs that have no result yet.

    Args:
        jobs: processes at once; they share the processor's cores.
        finished: called after each run with the failures so far.

    Returns:
        The reason of each failure, by the run's title.

    Raises:
        Stopped: SIGTERM, SIGHUP or Ctrl-C came. Every run in progress has ended, after saving its state if it had
            begun to train. A second signal kills them.
        WriteError: a log cannot be written.
    """
    waiting = [run for run in runs if run.result() is None]
    failures: dict[str, str] = {}
    bar = Progress("compare", "run", len(runs), done=len(runs) - len(waiting), show=show_progress)
    with bar, _collect_signals() as signals, _processes() as processes:
        passed_on = 0
        while processes or (waiting and not signals):
            while waiting and len(processes) < jobs and not signals:
                run = waiting.pop(0)
                processes[_start(run, jobs)] = run
            if len(signals) > passed_on:
                passed_on = len(signals)
                for process in processes:
                    process.send_signal(signal.SIGTERM if passed_on == 1 else signal.SIGKILL)
            ended_processes = [process for process in processes if process.poll() is not None]
            for process in ended_processes:
                run = processes.pop(process)
                if (why := _failure(run, process.returncode)) and not signals:
                    failures[run.title] = why
                    write_line(f"{run.title} failed: {why} (see {run.folder / _LOG})")
                bar.note(f"last: {run.title}")
                bar.update()
                finished(dict(failures))
            if not ended_processes:
                time.sleep(_POLL_SECONDS)
    if signals:
        count = sum(run.result() is not None for run in runs)
        raise Stopped(f"{count} of {len(runs)} runs are finished; run the same command again to resume", signals[0])
    return failures


@contextmanager
def _collect_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop. Signals that are ignored, such as SIGHUP under nohup, stay ignored."""
    signals: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        # A closed terminal sends SIGHUP twice, from the system and from the shell. The second does not mean "kill".
        if number != signal.SIGHUP or not signals:
            signals.append(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    numbers_to_catch = [number for number, handler in handlers.items() if handler != signal.SIG_IGN]
    for number in numbers_to_catch:
        signal.signal(number, collect)
    try:
        yield signals
    finally:
        for number in numbers_to_catch:
            signal.signal(number, handlers[number])


@contextmanager
def _processes() -> Iterator[dict[subprocess.Popen[bytes], Run]]:
    """Keep the processes of the runs in progress, and stop them all if the driver fails."""
    processes: dict[subprocess.Popen[bytes], Run] = {}
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _start(run: Run, jobs: int) -> subprocess.Popen[bytes]:
    """Start one run, or resume it if it was stopped before."""
    settings = [
        f"--config_files={run.folder / _SETTINGS}",
        f"--checkpoint_dir={run.folder}",
        "--show_progress=False",
        "--resume=auto",
    ]
    command = [sys.executable, "-m", "recbole_cora.compare.child", str(os.getpid()), "run", *settings]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads} if jobs > 1 else None
    try:
        with (run.folder / _LOG).open("wb") as log:
            # It has its own session: Ctrl-C and a closed terminal reach only the driver, which passes them on once.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise WriteError(f"cannot write {run.folder / _LOG} or start the run ({error.strerror})") from None


def _failure(run: Run, status: int) -> str:
    """Return why a run ended without a result; "" if it has one."""
    if run.result() is not None:
        return ""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = (run.folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {status}"


def dataset_key(folder: Path) -> str:
    """Return a key that changes when a file of the dataset changes.

    Raises:
        DataError: the folder holds no ratings.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".inter", ".item", ".user", ".kg", ".link"))
    if not any(path.suffix == ".inter" for path in files):
        raise DataError(f"{folder} holds no ratings (*.inter); give another --dataset=, or prepare this one")
    return content_key(*(part for path in files for part in (path.name, path.read_bytes())))
