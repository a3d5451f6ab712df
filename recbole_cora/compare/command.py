"""The command line of `recbole-cora compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_cora import metrics, repairs
from recbole_cora.compare.experiment import built_in, make_experiment
from recbole_cora.compare.runs import dataset_key, plan, run_missing
from recbole_cora.compare.table import write_report
from recbole_cora.errors import SettingError
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.settings import parse_arguments

HELP = """\
usage: recbole-cora compare --models=A,B,... --dataset=NAME [--seeds=1,2,3] [--key=value ...]
       recbole-cora compare --experiment=NAME|FILE.yaml [--seeds=...] [--key=value ...]

Runs every system with every seed, and writes report.md, report.json and report.csv. What is finished is not run again;
after a failure or a kill, the same command goes on. Other settings go to each system that knows them.

  --out=DIR    default compare/<experiment>-<dataset>
  --jobs=N     runs at once, default 1
  experiments: {experiments} (properties/experiments/)
"""


def compare_command(arguments: list[str]) -> None:
    """Run what is missing, write the report, print its path. Raises SettingError."""
    if {"--help", "-h"} & set(arguments):
        print(HELP.format(experiments=", ".join(built_in())), end="")
        return
    repairs.apply_all()
    metrics.register()
    options = parse_arguments(arguments)
    file, out, jobs = options.pop("experiment", None), options.pop("out", None), options.pop("jobs", 1)
    models, dataset = _names(options.pop("models", "")), options.pop("dataset", None)
    seeds, progress = options.pop("seeds", None), options.pop("show_progress", True)
    if not isinstance(jobs, int) or jobs < 1:
        raise SettingError(f"--jobs is {jobs!r}; expected a whole number of at least 1")
    experiment = make_experiment(file, models, dataset, None if seeds is None else _numbers(seeds), options)
    folder = Path(out or f"compare/{experiment.name}-{experiment.dataset}")
    first = experiment.config(experiment.systems[0], experiment.seeds[0])
    prepare_by_itself(experiment.dataset, Path(first["data_path"]), progress)
    runs = plan(experiment, folder, dataset_key(first))
    failed: dict[str, str] = {}
    failed |= run_missing(runs, jobs, lambda: write_report(experiment, runs, failed, folder), progress)
    write_report(experiment, runs, failed, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(folder / "report.json")


def _names(value: Any) -> list[str]:
    return [
        str(name).strip() for name in (value if isinstance(value, list) else str(value).split(",")) if str(name).strip()
    ]


def _numbers(value: Any) -> list[int]:
    try:
        return [int(number) for number in _names(value)]
    except ValueError:
        raise SettingError(f"--seeds is {value!r}; expected whole numbers such as 1,2,3") from None
