"""The runs of an experiment: each in a process of its own, so that one that fails, or is killed, takes no other along.

What is finished is kept by content (model, settings, seed, dataset's files, version) and never run again; what failed
is tried again the next time. No run outlives the driver: a signal to stop is passed on, and the driver waits until each
run has saved its state; where the driver is killed, the system ends its runs (see `child.py`).
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
from typing import Any

import yaml
from tqdm import tqdm

from recbole_cora.compare.experiment import Experiment, System
from recbole_cora.errors import DataError, Stopped, WriteError
from recbole_cora.files import content_key, write_whole

_SETTINGS, _LOG = "settings.yaml", "log.txt"
#: Seconds between two looks at the runs in progress.
_BEAT = 0.1


@dataclass(frozen=True)
class Run:
    """One system with one seed; `folder` holds its settings, its log, and once it is finished its result."""

    system: System
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.system.name}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """What the finished run's result.json holds; None before."""
        for path in sorted(self.folder.glob("*/result.json")):
            try:
                result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # damaged: the run is made again, beside it
            return result
        return None


def plan(experiment: Experiment, out: Path, dataset_key: str) -> list[Run]:
    """Every run of the experiment, finished or not; its settings are written to its folder.

    Raises:
        SettingError: a setting that a system does not know.
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
            content = {"model": system.model, "dataset": experiment.dataset, **chosen}
            text = yaml.safe_dump(content, sort_keys=False)
            write_whole(run.folder / _SETTINGS, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
            runs.append(run)
    return runs


def run_missing(
    runs: list[Run], jobs: int, finished: Callable[[dict[str, str]], object], show_progress: bool
) -> dict[str, str]:
    """Run what has no result yet.

    Args:
        jobs: processes at once; the processor's cores are shared among them.
        finished: called after each run with the failures so far.

    Returns:
        Why each failed run failed, by its title.

    Raises:
        Stopped: SIGTERM, SIGHUP or Ctrl-C came; every run in progress has ended, its state saved if it had begun to
            train. A second signal kills them.
        WriteError: a log cannot be written.
    """
    waiting = [run for run in runs if run.result() is None]
    failed: dict[str, str] = {}
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="compare", unit="run", disable=not show_progress)
    with bar, _signals() as signals, _processes() as processes:
        passed_on = 0
        while processes or (waiting and not signals):
            while waiting and len(processes) < jobs and not signals:
                run = waiting.pop(0)
                processes[_started(run, jobs)] = run
            if len(signals) > passed_on:
                passed_on = len(signals)
                for process in processes:
                    process.send_signal(signal.SIGTERM if passed_on == 1 else signal.SIGKILL)
            ended = [process for process in processes if process.poll() is not None]
            for process in ended:
                run = processes.pop(process)
                if (why := _failure(run, process.returncode)) and not signals:
                    failed[run.title] = why
                    tqdm.write(f"{run.title} failed: {why} (see {run.folder / _LOG})", file=sys.stderr)
                bar.set_postfix_str(f"last: {run.title}", refresh=False)
                bar.update()
                finished(dict(failed))
            if not ended:
                time.sleep(_BEAT)
    if signals:
        done = sum(run.result() is not None for run in runs)
        raise Stopped(f"{done} of {len(runs)} runs are finished; the same command goes on", signals[0])
    return failed


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop. One that is ignored, as SIGHUP under nohup, stays ignored."""
    numbers: list[int] = []

    def note(number: int, frame: Any) -> None:
        # A closed terminal sends SIGHUP twice, from the system and from the shell; that is no impatience.
        if number != signal.SIGHUP or not numbers:
            numbers.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    caught = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, note)
    try:
        yield numbers
    finally:
        for number in caught:
            signal.signal(number, before[number])


@contextmanager
def _processes() -> Iterator[dict[subprocess.Popen[bytes], Run]]:
    """Hold the runs in progress; none is left where the driver ends with an error."""
    processes: dict[subprocess.Popen[bytes], Run] = {}
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _started(run: Run, jobs: int) -> subprocess.Popen[bytes]:
    """Start one run, from where it was if it was stopped before."""
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
            # A session of its own: Ctrl-C and a closed terminal reach the driver alone, which passes them on once.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise WriteError(f"cannot write {run.folder / _LOG} or start the run ({error.strerror})") from None


def _failure(run: Run, status: int) -> str:
    """Return why a run that has ended has no result, or ""."""
    if run.result() is not None:
        return ""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = (run.folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {status}"


def dataset_key(folder: Path) -> str:
    """Return a key that changes with the files of the dataset.

    Raises:
        DataError: the folder holds no ratings.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".inter", ".item", ".user", ".kg", ".link"))
    if not any(path.suffix == ".inter" for path in files):
        raise DataError(f"{folder} holds no ratings (*.inter); give another --dataset=, or prepare it")
    return content_key(*(part for path in files for part in (path.name, path.read_bytes())))
