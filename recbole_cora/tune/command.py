"""The command line of `recbole-cora tune`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from recbole_cora import metrics, repairs
from recbole_cora.checkpoint import WEIGHTS
from recbole_cora.errors import SettingError, nearest
from recbole_cora.files import held, write_json
from recbole_cora.microbatches import free_memory
from recbole_cora.parts import ready_parts
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.quick_start import run
from recbole_cora.ratings import load_ratings
from recbole_cora.registry import model_class
from recbole_cora.report import METRICS
from recbole_cora.settings import CoraConfig, parse_arguments, read_yaml
from recbole_cora.tune.search import search
from recbole_cora.tune.space import SEARCHES, Draw, draw_all, read_space
from recbole_cora.tune.trials import ENDED, best_first, read_trials, table, write_trials

HELP = """\
usage: recbole-cora tune --model=NAME --dataset=NAME [--space=FILE.yaml] [--config_files=FILE.yaml] [--key=value ...]
       recbole-cora tune --resume=DIR [--num_samples=N]

Searches settings (default: learning_rate and weight_decay, properties/space.yaml) by the valid rows, then scores the
best trial on the test rows, once. Writes trials.md, trials.json, best.yaml (for `run --config_files=`) and search.png.

  --search=random|grid|optuna|hyperopt   default random      --scheduler=none|asha   default none
  --num_samples=N   trials (grid: all there are), default 8  --jobs=N    trials at once, default 1
  --out=DIR         default tune/<model>-<dataset>-<time>    --cpus=N    of each trial, default: all, shared by the jobs
  --space=FILE      what is searched, a YAML                 --gpus=X    of each trial, such as 1 or 0.5, default 0
  --address=ray://HOST:10001   a ray cluster; its machines need the packages, and this folder at the same path
"""

_SIZES = ("num_samples", "jobs", "cpus", "gpus")
_OWN: dict[str, Any] = {
    "space": None, "search": "random", "scheduler": "none", "address": None, "out": None, "resume": None,
    **dict.fromkeys(_SIZES),
}  # fmt: skip


def tune_command(arguments: list[str]) -> None:
    """Search, write what was found, print the table and the folder.

    Raises:
        SettingError: what is to be searched cannot be, or no trial has finished.
        Stopped: Ctrl-C came; what is done is kept.
    """
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return
    repairs.apply_all()
    metrics.register()
    options = parse_arguments(arguments)
    own = {key: options.pop(key, default) for key, default in _OWN.items()}
    folder, told, space = _begun(own, options) if own["resume"] else _new(own, options)
    _share_frozen_work(told)
    page = {**told, "space": list(space), "trials": read_trials(folder), "best": None}
    with held(folder) as alone:
        if not alone:
            raise SettingError(f"another process is searching in {folder}; wait until it ends")
        started = perf_counter()
        with _shown(page, folder):
            search(told, space, folder, address=own["address"])
        page["seconds"] = round(perf_counter() - started, 1)
        reached = ((trial, _weights(folder, trial)) for trial in best_first(page) if trial["best"] is not None)
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


def _new(own: dict[str, Any], options: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Draw]]:
    """A search's folder, what it is about, and its space; checked before anything long."""
    files = [read_yaml(Path(file)) for file in options.pop("config_files", [])]
    options = {key: value for content in [*files, options] for key, value in content.items()}
    model, dataset = options.pop("model", None), options.pop("dataset", None)
    if not model or not dataset:
        raise SettingError("a search needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    if own["search"] not in SEARCHES:
        near = nearest(str(own["search"]), SEARCHES)
        raise SettingError(f"--search is '{own['search']}'{near}; expected one of {', '.join(SEARCHES)}")
    space = read_space(own["space"])
    config = CoraConfig(model_class(model), str(dataset), options)
    for key in space:
        if key not in config.known:
            raise SettingError(f"the space names an unknown setting '{key}'{nearest(key, config.known)}")
    metric = str(config["valid_metric"]).lower()
    if metric not in METRICS:
        raise SettingError(f"valid_metric is {config['valid_metric']}; a search goes by AUC, UAUC or LogLoss")
    fixed = {"cache_dir": str(Path(config["cache_dir"]).resolve()), **options}
    if "data_path" in options or (Path("dataset") / str(dataset)).is_dir():
        fixed["data_path"] = str(Path(options.get("data_path", "dataset")).resolve())
    told = {
        "model": model, "dataset": str(dataset), "metric": metric, "bigger": bool(config["valid_metric_bigger"]),
        "fixed": fixed, "seed": config["seed"], "epochs": config["epochs"], "search": own["search"],
        "scheduler": own["scheduler"], **_sizes(own, {"num_samples": 8, "jobs": 1, "cpus": None, "gpus": 0}),
    }  # fmt: skip
    folder = Path(str(own["out"] or f"tune/{model}-{dataset}-{datetime.now():%Y%m%d-%H%M%S}")).resolve()
    if (folder / "tune.json").exists():
        raise SettingError(f"{folder} holds a search already; go on with --resume={folder}, or give another --out=")
    return folder, _noted(folder, told, space), space


def _begun(own: dict[str, Any], options: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Draw]]:
    """The same of a search that was begun before; its sizes may change."""
    folder = Path(str(own["resume"])).resolve()
    others = [*options, *(key for key in ("space", "search", "scheduler", "out") if own[key] != _OWN[key])]
    if others:
        raise SettingError(f"--resume goes on with the settings that {folder} was begun with; leave out --{others[0]}")
    try:
        told = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
        space = {key: Draw(*draw) for key, draw in told["space"].items()}
        told |= _sizes(own, told)
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingError(f"{folder} holds no search to go on with; give the folder of an earlier one") from None
    return folder, _noted(folder, told, space), space


def _sizes(own: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """How many trials, at once, and what each is given: as asked for, else as before."""
    found = {key: before[key] if own[key] is None else own[key] for key in _SIZES}
    for key in ("num_samples", "jobs", "cpus"):
        if key == "cpus" and found[key] is None:
            found[key] = max(1, (os.cpu_count() or 1) // found["jobs"])
        if not isinstance(found[key], int) or found[key] < 1:
            raise SettingError(f"--{key} is {found[key]!r}; expected a whole number of at least 1")
    if not isinstance(found["gpus"], (int, float)) or found["gpus"] < 0:
        raise SettingError(f"--gpus is {found['gpus']!r}; expected a number such as 0, 0.5 or 1")
    return found


def _noted(folder: Path, told: dict[str, Any], space: dict[str, Draw]) -> dict[str, Any]:
    """`told`, with what its search draws beforehand, written to the folder."""
    known = told["search"] in ("random", "grid")
    told["drawn"] = draw_all(space, told["search"], told["num_samples"], told["seed"]) if known else {}
    write_json(folder / "tune.json", {**told, "space": {key: [draw.kind, draw.values] for key, draw in space.items()}})
    return told


def _share_frozen_work(told: dict[str, Any]) -> None:
    """Make what every trial reads: prepared data, tokens, CF encoder, the tiny LLM. What it took is free afterwards."""
    config = CoraConfig(model_class(told["model"]), told["dataset"], told["fixed"])
    prepare_by_itself(told["dataset"], Path(config["data_path"]), True)
    ready_parts(config, load_ratings(Path(config["data_path"]), told["dataset"], config.final_config_dict))
    free_memory()


def _weights(folder: Path, trial: dict[str, Any]) -> Path | None:
    """The folder of a trial's best weights; None where it was stopped before it kept any."""
    return next((path.parent for path in (folder / "trials" / trial["name"]).glob(f"*/{WEIGHTS}")), None)


def _tested(told: dict[str, Any], best: dict[str, Any], kept: Path, folder: Path) -> dict[str, Any]:
    """The best trial, its weights loaded, scored on the valid and test rows."""
    own = {"checkpoint": str(kept), "checkpoint_dir": str(folder / "best"), "references": False}
    result = run(told["model"], told["dataset"], {**told["fixed"], **best["settings"], **own})
    settings = {**{k: v for k, v in told["fixed"].items() if k not in ("cache_dir", "data_path")}, **best["settings"]}
    return {"name": best["name"], "settings": settings, "valid": result["valid"], "test": result["test"]}
