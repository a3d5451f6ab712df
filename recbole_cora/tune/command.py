"""The command line of `recbole-cora tune`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole_cora.errors import SettingError, WriteError, raise_all
from recbole_cora.files import check_writable, try_lock
from recbole_cora.llm.choice import with_llm
from recbole_cora.progress import Progress
from recbole_cora.settings.commands import TuneOptions, split_options
from recbole_cora.settings.reading import parse_arguments, read_yaml
from recbole_cora.settings.resolve import resolve
from recbole_cora.settings.restore import resolve_run
from recbole_cora.summary import METRICS
from recbole_cora.tune.records import (
    BestTrial,
    Resources,
    Search,
    SearchReport,
    TrialRecord,
    Values,
    holds_search,
    read_search,
    write_search,
)
from recbole_cora.tune.report import table, write_report
from recbole_cora.tune.search import run_search
from recbole_cora.tune.space import draw_all, read_space, wrong_draws
from recbole_cora.tune.trials import DONE, ENDED, read_trials

#: Options that define a search. A resumed search already has them.
_DEFINING = ("model", "dataset", "config_files", "space", "search", "scheduler", "out")


def tune_command(arguments: list[str]) -> None:
    """Search, write the report, then print its table and the folder.

    Raises:
        SettingError: the command line has a mistake, or no trial has finished.
        WriteError: the search's folder cannot be written.
        Stopped: Ctrl-C, SIGTERM or SIGHUP came; the search can be resumed.
    """
    values, settings, problems = split_options(TuneOptions, parse_arguments(arguments))
    raise_all(problems, SettingError)
    options = TuneOptions(**values)
    new = _new_search(options, settings) if options.resume is None else None
    folder = _folder(options, new)
    check_writable(folder, "give another --out=")
    with try_lock(folder) as acquired:
        if not acquired:
            raise SettingError(f"another process is searching in {folder}; wait until it ends")
        search = new or _earlier_search(options, settings, folder)
        write_search(folder, search)
        try:
            os.chdir(search.working_dir)
        except OSError as error:
            raise SettingError(
                f"the search was started in {search.working_dir}, which is no longer accessible ({error.strerror})"
            ) from None
        resources = _resources(search)
        _make_frozen_parts(search, resources)
        report = SearchReport(search, resources, read_trials(folder))
        started = perf_counter()
        with _progress(report, folder):
            run_search(search, resources, folder, address=options.address)
        report = replace(report, trials=read_trials(folder), seconds=round(perf_counter() - started, 1))
        report = replace(report, best=_score_best(report, folder))
        write_report(folder, report)
    print("\n".join(["", *table(report), str(folder)]))


@contextmanager
def _progress(report: SearchReport, folder: Path) -> Iterator[None]:
    """Show the trials' progress on the screen while the context lasts, and write the report each time one ends."""
    search, done = report.search, threading.Event()

    def follow() -> None:
        written_count = -1
        while True:
            last = done.wait(2.0)
            current = replace(report, trials=read_trials(folder))
            count = sum(trial.status in ENDED for trial in current.trials)
            if current.trials and (last or count != written_count):
                with suppress(WriteError):  # on a full disk; the report at the end raises it
                    write_report(folder, current)
                    written_count = count
            best = current.best_first()[0].best if current.trials else None
            if best is not None:
                bar.note(f"best valid {search.metric} {best:.4f}")
            if count != bar.done:
                bar.update(count - bar.done)
            bar.refresh()
            if last:
                return

    with Progress("search", "trial", len(search.planned) or search.num_samples) as bar:
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _folder(options: TuneOptions, new: Search | None) -> Path:
    """Return the search folder: an existing one when resuming, otherwise one without a search."""
    if new is None:
        folder = Path(str(options.resume)).resolve()
        if not holds_search(folder):
            raise SettingError(f"{folder} holds no search to resume; give the folder of an earlier search")
        return folder
    time = f"{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(options.out or f"tune/{new.model}-{new.dataset}-{time}").resolve()
    if holds_search(folder):
        raise SettingError(f"{folder} already holds a search; resume it with --resume={folder}, or give another --out=")
    return folder


def _new_search(options: TuneOptions, settings: Values) -> Search:
    """Return the search that the command line describes. Raises SettingError before anything slow starts."""
    fixed: dict[str, Any] = {}
    for file in options.config_files:
        fixed |= read_yaml(Path(file))
    fixed |= settings
    model, dataset = options.model or fixed.pop("model", None), options.dataset or fixed.pop("dataset", None)
    if not model or not dataset:
        raise SettingError("a search needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    full_settings = resolve(model, dataset, fixed)
    space = read_space(options.space)
    raise_all(wrong_draws(space, full_settings), SettingError)
    metric = full_settings["valid_metric"].lower()
    if metric not in METRICS:
        raise SettingError(f"valid_metric is {full_settings['valid_metric']}; a search compares AUC, UAUC or LogLoss")
    search = Search(
        model=model, dataset=dataset, metric=metric, higher_is_better=metric != "logloss", fixed=fixed,
        working_dir=str(Path.cwd()), seed=full_settings["seed"], epochs=full_settings["epochs"], method=options.search,
        scheduler=options.scheduler, num_samples=8, jobs=1, cpus=None, gpus=None, space=space, planned={},
    )  # fmt: skip
    return _with_sizes(search, options)


def _earlier_search(options: TuneOptions, settings: Values, folder: Path) -> Search:
    """Return the search of a folder, with the sizes that the command line changes.

    Raises:
        SettingError: the command line changes something else, or tune.json is damaged.
    """
    defaults = TuneOptions()
    changes = [*settings, *(key for key in _DEFINING if getattr(options, key) != getattr(defaults, key))]
    if changes:
        raise SettingError(f"--resume keeps the settings that {folder} was started with; leave out --{changes[0]}")
    try:
        return _with_sizes(read_search(folder), options)
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingError(f"{folder / 'tune.json'} is damaged; start a new search") from None


def _with_sizes(search: Search, options: TuneOptions) -> Search:
    """Return the search with the options' number of trials, jobs, CPUs and GPUs, and with its trials planned."""
    sizes = {key: getattr(options, key) for key in ("num_samples", "jobs", "cpus", "gpus")}
    search = replace(search, **{key: size for key, size in sizes.items() if size is not None})
    can_plan = search.method in ("random", "grid")
    planned = draw_all(search.space, search.method, search.num_samples, search.seed) if can_plan else {}
    return replace(search, planned=planned)


def _resources(search: Search) -> Resources:
    """Return the resources of a trial: those that the options name, or an equal share of this machine."""
    import torch

    cpus = search.cpus or max(1, (os.cpu_count() or 1) // search.jobs)
    gpus = search.gpus
    if gpus is None:
        gpus = min(1.0, int(100 * torch.cuda.device_count() / search.jobs) / 100)
    return Resources(cpus, gpus)


def _make_frozen_parts(search: Search, resources: Resources) -> None:
    """Make what all trials read (prepared data, tokens, CF encoder, tiny LLM), then free the memory that it took."""
    from recbole_cora import metrics, repairs
    from recbole_cora.data.ratings import load_ratings
    from recbole_cora.parts.ready import ready_parts
    from recbole_cora.prepare.command import prepare_by_itself
    from recbole_cora.registry import model_class
    from recbole_cora.settings.recbole_config import CoraConfig
    from recbole_cora.training.microbatches import free_memory

    repairs.apply_all()
    metrics.register()
    settings = resolve_run(search.model, search.dataset, {**search.fixed, **resources.settings})
    if "llm" in settings.needs:
        settings, *_ = with_llm(settings)
    config = CoraConfig(model_class(settings.model), settings.dataset, settings=settings)
    prepare_by_itself(search.dataset, Path(config["data_path"]), True)
    ready_parts(config, load_ratings(Path(config["data_path"]), search.dataset, config.final_config_dict))
    free_memory()


def _weights_folder(folder: Path, trial: TrialRecord) -> Path | None:
    """Return the folder of a trial's best weights; None if it was stopped before it saved any."""
    return next((path.parent for path in (folder / "trials" / trial.name).glob("*/model.safetensors")), None)


def _score_best(report: SearchReport, folder: Path) -> BestTrial:
    """Load the best trial that is done and has saved weights, and score the valid and test rows with it.

    Raises:
        SettingError: there is no such trial.
    """
    from recbole_cora.quick_start import run

    search = report.search
    done_trials = [trial for trial in report.best_first() if trial.status in DONE]
    candidates = ((trial, _weights_folder(folder, trial)) for trial in done_trials)
    best, weights = next(((trial, weights) for trial, weights in candidates if weights), (None, None))
    if best is None:
        raise SettingError(f"no trial has finished; {folder / 'trials.md'} gives the reasons")
    settings = {**search.fixed, **best.settings}
    paths = {"checkpoint": str(weights), "checkpoint_dir": str(folder / "best"), "references": False}
    result = run(search.model, search.dataset, {**settings, **report.resources.settings, **paths})
    return BestTrial(best.name, settings, result["valid"], result["test"])
