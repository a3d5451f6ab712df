"""The command line of `recbole-cora tune`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_cora import metrics, repairs
from recbole_cora.checkpoint import WEIGHTS
from recbole_cora.errors import SettingError, nearest
from recbole_cora.files import held, write_json
from recbole_cora.parts import ready_parts
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.quick_start import run
from recbole_cora.ratings import load_ratings
from recbole_cora.registry import model_class
from recbole_cora.report import METRICS
from recbole_cora.settings import CoraConfig, parse_arguments
from recbole_cora.tune.search import search
from recbole_cora.tune.space import SEARCHES, Draw, draw_all, read_space
from recbole_cora.tune.trials import ENDED, best_first, read_trials, table, write_trials

HELP = """\
usage: recbole-cora tune --model=NAME --dataset=NAME [--space=FILE.yaml] [--key=value ...]
       recbole-cora tune --resume=DIR

Searches settings (default: learning_rate and weight_decay, properties/space.yaml) by the valid rows, then scores the
best trial on the test rows, once. Writes trials.md, trials.json, best.yaml (for `run --config_files=`) and search.png.

  --search=random|grid|optuna|hyperopt   default random      --scheduler=none|asha   default none
  --num_samples=N   trials (grid: all there are), default 8  --jobs=N    trials at once, default 1
  --out=DIR         default tune/<model>-<dataset>-<time>    --cpus=N    of each trial, default: all, shared by the jobs
  --space=FILE      what is searched, a YAML                 --gpus=X    of each trial, such as 1 or 0.5, default 0
  --address=ray://HOST:10001   a ray cluster; its machines need the packages, and this folder at the same path
"""

_OWN: dict[str, Any] = {
    "space": None, "search": "random", "scheduler": "none", "num_samples": 8, "jobs": 1, "cpus": None, "gpus": 0,
    "address": None, "out": None, "resume": None,
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
    if own["resume"]:
        folder = Path(str(own["resume"])).resolve()
        told, space = _begun(folder)
    else:
        told, space = _told(own, options)
        name = f"{told['model']}-{told['dataset']}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = Path(str(own["out"] or f"tune/{name}")).resolve()
        if (folder / "tune.json").exists():
            raise SettingError(f"{folder} holds a search already; go on with --resume={folder}, or give another --out=")
        write_json(folder / "tune.json", {**told, "space": {key: [d.kind, d.values] for key, d in space.items()}})
    config = CoraConfig(model_class(told["model"]), told["dataset"], told["fixed"])
    prepare_by_itself(told["dataset"], Path(config["data_path"]), True)
    ready_parts(config, load_ratings(Path(config["data_path"]), told["dataset"], config.final_config_dict))
    page: dict[str, Any] = {**told, "space": list(space), "trials": read_trials(folder), "best": None}
    with held(folder) as alone:
        if not alone:
            raise SettingError(f"another process is searching in {folder}; wait until it ends")
        with _shown(page, folder):
            search(told, space, folder, address=own["address"])
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


def _told(own: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Draw]]:
    """What is to be searched, checked before anything long."""
    model, dataset = options.pop("model", None), options.pop("dataset", None)
    if not model or not dataset:
        raise SettingError("a search needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    for key in ("num_samples", "jobs", "cpus"):
        if key == "cpus" and own[key] is None:
            own[key] = max(1, (os.cpu_count() or 1) // own["jobs"])
        if not isinstance(own[key], int) or own[key] < 1:
            raise SettingError(f"--{key} is {own[key]!r}; expected a whole number of at least 1")
    if not isinstance(own["gpus"], (int, float)) or own["gpus"] < 0:
        raise SettingError(f"--gpus is {own['gpus']!r}; expected a number such as 0, 0.5 or 1")
    space = read_space(own["space"])
    config = CoraConfig(model_class(model), str(dataset), options)
    for key in space:
        if key not in config.known:
            raise SettingError(f"the space names an unknown setting '{key}'{nearest(key, config.known)}")
    fixed = {"cache_dir": str(Path(config["cache_dir"]).resolve()), **options}
    if "data_path" in options or (Path("dataset") / str(dataset)).is_dir():
        fixed["data_path"] = str(Path(options.get("data_path", "dataset")).resolve())
    told = {key: own[key] for key in ("search", "scheduler", "num_samples", "jobs", "cpus", "gpus")}
    if own["search"] not in SEARCHES:
        near = nearest(str(own["search"]), SEARCHES)
        raise SettingError(f"--search is '{own['search']}'{near}; expected one of {', '.join(SEARCHES)}")
    known = own["search"] in ("random", "grid")
    told["drawn"] = draw_all(space, own["search"], own["num_samples"], config["seed"]) if known else {}
    metric = str(config["valid_metric"]).lower()
    if metric not in METRICS:
        raise SettingError(f"valid_metric is {config['valid_metric']}; a search goes by AUC, UAUC or LogLoss")
    told |= {"model": model, "dataset": str(dataset), "metric": metric, "bigger": bool(config["valid_metric_bigger"])}
    return {**told, "fixed": fixed, "seed": config["seed"], "epochs": config["epochs"]}, space


def _begun(folder: Path) -> tuple[dict[str, Any], dict[str, Draw]]:
    try:
        told = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
        space = {key: Draw(*draw) for key, draw in told.pop("space").items()}
    except (OSError, ValueError, KeyError):
        raise SettingError(f"{folder} holds no search to go on with; give the folder of an earlier one") from None
    return told, space


def _weights(folder: Path, trial: dict[str, Any]) -> Path | None:
    """The folder of a trial's best weights; None where it was stopped before it kept any."""
    return next((path.parent for path in (folder / "trials" / trial["name"]).glob(f"*/{WEIGHTS}")), None)


def _tested(told: dict[str, Any], best: dict[str, Any], kept: Path, folder: Path) -> dict[str, Any]:
    """The best trial, its weights loaded, scored on the valid and test rows."""
    own = {"checkpoint": str(kept), "checkpoint_dir": str(folder / "best"), "references": False}
    result = run(told["model"], told["dataset"], {**told["fixed"], **best["settings"], **own})
    settings = {**{k: v for k, v in told["fixed"].items() if k not in ("cache_dir", "data_path")}, **best["settings"]}
    return {"name": best["name"], "settings": settings, "valid": result["valid"], "test": result["test"]}
