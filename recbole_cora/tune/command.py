"""The command line of `recbole-cora tune`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from recbole_cora.errors import SettingError, WriteError, raise_all
from recbole_cora.files import check_writable, try_lock, write_json
from recbole_cora.llm.choice import with_llm
from recbole_cora.settings.commands import TuneOptions, split_options
from recbole_cora.settings.kinds import defaults_of, settings_of_group
from recbole_cora.settings.reading import parse_arguments, read_yaml
from recbole_cora.settings.resolve import resolve
from recbole_cora.settings.restore import resolve_run
from recbole_cora.summary import METRICS
from recbole_cora.tune.search import search
from recbole_cora.tune.space import Draw, draw_all, read_space, wrong_draws
from recbole_cora.tune.trials import DONE, ENDED, best_first, read_trials, table, write_trials

_ABOUT = "tune.json"
_SIZES = ("num_samples", "jobs", "cpus", "gpus")
#: Options that say what a search is; a resumed one has them already.
_FIXED = ("model", "dataset", "config_files", "space", "search", "scheduler", "out")


def tune_command(arguments: list[str]) -> None:
    """Search, write what was found, print the table and the folder.

    Raises:
        SettingError: what is to be searched cannot be, or no trial has finished.
        WriteError: the search's folder cannot be written.
        Stopped: Ctrl-C, SIGTERM or SIGHUP came; what is done is kept.
    """
    own, options, problems = split_options(TuneOptions, parse_arguments(arguments))
    raise_all(problems, SettingError)
    folder = _folder(own, options)
    begun = _new(own, options) if own["resume"] is None else None
    check_writable(folder, "give another --out=")
    with try_lock(folder) as alone:
        if not alone:
            raise SettingError(f"another process is searching in {folder}; wait until it ends")
        told, space = begun or _begun(own, options, folder)
        write_json(folder / _ABOUT, {**told, "space": {key: [draw.kind, draw.values] for key, draw in space.items()}})
        try:
            os.chdir(told["at"])
        except OSError as error:
            raise SettingError(f"the search was begun in {told['at']}, which is gone ({error.strerror})") from None
        told = _with_machine(told)
        _share_frozen_work(told)
        page = {**told, "space": list(space), "trials": read_trials(folder), "best": None}
        started = perf_counter()
        with _shown(page, folder):
            search(told, space, folder, address=own["address"])
        page["seconds"] = round(perf_counter() - started, 1)
        reached = ((trial, _weights(folder, trial)) for trial in best_first(page) if trial["status"] in DONE)
        best, kept = next((pair for pair in reached if pair[1]), (None, None))
        if best is None or kept is None:
            raise SettingError(f"no trial has finished; why stands in {folder / 'trials.md'}")
        page["best"] = _tested(told, best, kept, folder)
        write_trials(folder, page)
    print("\n".join(["", *table(page), str(folder)]))


@contextmanager
def _shown(page: dict[str, Any], folder: Path) -> Iterator[None]:
    """While it lasts, `page["trials"]` follows what the trials note, on the screen; in files, each time one ends."""
    done = threading.Event()

    def follow() -> None:
        written = -1
        while True:
            last = done.wait(2.0)
            page["trials"] = read_trials(folder)
            ended = sum(trial["status"] in ENDED for trial in page["trials"])
            if page["trials"] and (last or ended != written):
                with suppress(WriteError):  # a full disk: the end writes them again, and says so
                    write_trials(folder, page)
                    written = ended
            if any(trial["best"] is not None for trial in page["trials"]):
                bar.set_postfix_str(f"best valid {page['metric']} {best_first(page)[0]['best']:.4f}", refresh=False)
            bar.n = ended
            bar.refresh()
            if last:
                return

    with tqdm(desc="search", unit="trial", total=len(page["drawn"]) or page["num_samples"]) as bar:
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _folder(own: dict[str, Any], options: dict[str, Any]) -> Path:
    """Of the search: one that is there where it is to be gone on with, else one that holds no search yet."""
    if own["resume"] is not None:
        folder = Path(own["resume"]).resolve()
        if not _holds_search(folder):
            raise SettingError(f"{folder} holds no search to go on with; give the folder of an earlier one")
        return folder
    time = f"{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(own["out"] or f"tune/{own['model']}-{own['dataset']}-{time}").resolve()
    if _holds_search(folder):
        raise SettingError(f"{folder} holds a search already; go on with --resume={folder}, or give another --out=")
    return folder


def _holds_search(folder: Path) -> bool:
    try:
        return (folder / _ABOUT).is_file()
    except OSError:  # a name that is too long
        return False


def _new(own: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Draw]]:
    """What the search is about, and its space; checked before anything long."""
    fixed: dict[str, Any] = {}
    for file in own["config_files"]:
        fixed |= read_yaml(Path(file))
    fixed |= options
    model, dataset = own["model"] or fixed.pop("model", None), own["dataset"] or fixed.pop("dataset", None)
    if not model or not dataset:
        raise SettingError("a search needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    settings = resolve(model, dataset, fixed)
    space = read_space(own["space"])
    raise_all(wrong_draws(space, settings), SettingError)
    metric = settings["valid_metric"].lower()
    if metric not in METRICS:
        raise SettingError(f"valid_metric is {settings['valid_metric']}; a search goes by AUC, UAUC or LogLoss")
    told = {
        "model": model, "dataset": dataset, "metric": metric, "bigger": metric != "logloss", "fixed": fixed,
        "at": str(Path.cwd()), "seed": settings["seed"], "epochs": settings["epochs"], "search": own["search"],
        "scheduler": own["scheduler"],
    }  # fmt: skip
    return _drawn({**told, **_sizes(own, {"num_samples": 8, "jobs": 1, "cpus": None, "gpus": None})}, space), space


def _begun(own: dict[str, Any], options: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Draw]]:
    """The same of a search that was begun before; its sizes may change."""
    defaults = defaults_of(settings_of_group(TuneOptions))
    others = [*options, *(key for key in _FIXED if own[key] != defaults[key])]
    if others:
        raise SettingError(f"--resume goes on with the settings that {folder} was begun with; leave out --{others[0]}")
    try:
        told = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        space = {key: Draw(*draw) for key, draw in told["space"].items()}
        return _drawn({**told, **_sizes(own, told)}, space), space
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingError(f"{folder / _ABOUT} is damaged; begin a new search") from None


def _sizes(own: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """How many trials, how many at once, and what each is given (None: its share of this machine)."""
    return {key: before[key] if own[key] is None else own[key] for key in _SIZES}


def _drawn(told: dict[str, Any], space: dict[str, Draw]) -> dict[str, Any]:
    """`told`, with what its search draws beforehand."""
    known = told["search"] in ("random", "grid")
    return {**told, "drawn": draw_all(space, told["search"], told["num_samples"], told["seed"]) if known else {}}


def _with_machine(told: dict[str, Any]) -> dict[str, Any]:
    """`told`, with a trial's share of this machine where none was asked for, and the device that goes with it."""
    import torch

    cpus = told["cpus"] or max(1, (os.cpu_count() or 1) // told["jobs"])
    gpus = told["gpus"]
    if gpus is None:
        gpus = min(1.0, int(100 * torch.cuda.device_count() / told["jobs"]) / 100)
    return {**told, "cpus": cpus, "gpus": gpus, "device": {} if gpus else {"use_gpu": False}}


def _share_frozen_work(told: dict[str, Any]) -> None:
    """Make what every trial reads: prepared data, tokens, CF encoder, the tiny LLM. What it took is free afterwards."""
    from recbole_cora import metrics, repairs
    from recbole_cora.data.ratings import load_ratings
    from recbole_cora.parts.ready import ready_parts
    from recbole_cora.prepare.command import prepare_by_itself
    from recbole_cora.registry import model_class
    from recbole_cora.settings.recbole_config import CoraConfig
    from recbole_cora.training.microbatches import free_memory

    repairs.apply_all()
    metrics.register()
    settings = resolve_run(told["model"], told["dataset"], {**told["fixed"], **told["device"]})
    if "llm" in settings.needs:
        settings, *_ = with_llm(settings)
    config = CoraConfig(model_class(settings.model), settings.dataset, settings=settings)
    prepare_by_itself(told["dataset"], Path(config["data_path"]), True)
    ready_parts(config, load_ratings(Path(config["data_path"]), told["dataset"], config.final_config_dict))
    free_memory()


def _weights(folder: Path, trial: dict[str, Any]) -> Path | None:
    """The folder of a trial's best weights; None where it was stopped before it kept any."""
    return next((path.parent for path in (folder / "trials" / trial["name"]).glob("*/model.safetensors")), None)


def _tested(told: dict[str, Any], best: dict[str, Any], kept: Path, folder: Path) -> dict[str, Any]:
    """The best trial, its weights loaded, scored on the valid and test rows."""
    from recbole_cora.quick_start import run

    own = {"checkpoint": str(kept), "checkpoint_dir": str(folder / "best"), "references": False}
    result = run(told["model"], told["dataset"], {**told["fixed"], **best["settings"], **told["device"], **own})
    settings = {**told["fixed"], **best["settings"]}
    return {"name": best["name"], "settings": settings, "valid": result["valid"], "test": result["test"]}
