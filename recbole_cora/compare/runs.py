"""The runs of an experiment: each in a process of its own, so that one that fails, or is killed, takes no other along.

What is finished is kept by content (model, settings, seed, dataset's files, version) and never run again; what failed
is tried again the next time.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from recbole_cora.compare.experiment import Experiment, System
from recbole_cora.files import content_key, write_whole

_SETTINGS, _LOG = "settings.yaml", "log.txt"


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
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        return None


def plan(experiment: Experiment, out: Path, dataset_key: str) -> list[Run]:
    """Every run of the experiment, finished or not; its settings are written to its folder.

    Raises:
        SettingError: a setting that a system does not know.
    """
    runs = []
    for seed in experiment.seeds:  # all systems with the first seed before any with the second
        for system in experiment.systems:
            config = experiment.config(system, seed)
            name = re.sub(r"[^\w.-]+", "-", system.name)
            key = content_key(version("recbole-cora"), dataset_key, config["model"], config.content())
            run = Run(system, seed, out / "runs" / f"{name}-seed{seed}-{key}")
            given = {
                k: v for k, v in config.external_config_dict.items() if k not in ("checkpoint_dir", "show_progress")
            }
            own = {"model": system.model, "dataset": experiment.dataset, **given}
            text = yaml.safe_dump(own, sort_keys=False)
            run.folder.mkdir(parents=True, exist_ok=True)
            write_whole(run.folder / _SETTINGS, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
            runs.append(run)
    return runs


def run_missing(runs: list[Run], jobs: int, finished: Callable[[], object], show_progress: bool) -> dict[str, str]:
    """Run what has no result yet.

    Args:
        jobs: processes at once; the processor's cores are shared among them.
        finished: called after each run.

    Returns:
        Of each failed run, by its title: why.
    """
    missing = [run for run in runs if run.result() is None]
    failed: dict[str, str] = {}
    bar = tqdm(total=len(runs), initial=len(runs) - len(missing), desc="compare", unit="run", disable=not show_progress)
    with bar, ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_run, run, jobs): run for run in missing}
        try:
            for done in as_completed(waiting):
                run, why = waiting[done], done.result()
                if why:
                    failed[run.title] = why
                    tqdm.write(f"{run.title} failed: {why} (see {run.folder / _LOG})", file=sys.stderr)
                bar.set_postfix_str(f"last: {run.title}", refresh=False)
                bar.update()
                finished()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _run(run: Run, jobs: int) -> str:
    """One run to its end, from where it was if it was killed before. Returns why it failed, or ""."""
    settings = [
        f"--config_files={run.folder / _SETTINGS}",
        f"--checkpoint_dir={run.folder}",
        "--show_progress=False",
        "--resume=auto",
    ]
    command = [sys.executable, "-m", "recbole_cora.cli", "run", *settings]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads} if jobs > 1 else None
    with (run.folder / _LOG).open("wb") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if run.result() is not None:
        return ""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = (run.folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {status}"


def dataset_key(config: Any) -> str:
    """Changes with the files of the dataset."""
    folder = Path(config["data_path"])
    files = sorted(path for path in folder.glob("*") if path.suffix in (".inter", ".item", ".user"))
    return content_key(*(part for path in files for part in (path.name, path.read_bytes())))
