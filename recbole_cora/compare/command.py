"""The command line of `recbole-cora compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from recbole_cora import metrics, repairs
from recbole_cora.compare.experiment import built_in, make_experiment
from recbole_cora.compare.runs import dataset_key, plan, run_missing
from recbole_cora.compare.table import write_report
from recbole_cora.out_folder import make_out_folder, wrong_folder
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
    """Run what is missing, write the report, print its path.

    Raises:
        SettingError: names all that is wrong with the command and the experiment; nothing has been run.
        DataError: the dataset has no files.
        WriteError: the folder of the comparison cannot be written.
        Stopped: a signal came; what is finished is kept.
        SystemExit: 1, where a run failed; how many and where to look stands on standard error.
    """
    if {"--help", "-h"} & set(arguments):
        print(HELP.format(experiments=", ".join(built_in())), end="")
        return
    repairs.apply_all()
    metrics.register()
    options = parse_arguments(arguments)
    jobs, show_progress = options.pop("jobs", 1), options.pop("show_progress", True)
    problems = wrong_folder("out", out := options.pop("out", None))
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        problems.append(f"--jobs is {jobs!r}; expected a whole number of at least 1")
    file, models, dataset = (options.pop(key, None) for key in ("experiment", "models", "dataset"))
    seeds = options.pop("seeds", None)
    seeds = None if seeds is None else _numbers(seeds)
    experiment = make_experiment(file, _names(models), dataset, seeds, options, problems)
    first = experiment.config(experiment.systems[0], experiment.seeds[0])
    prepare_by_itself(experiment.dataset, Path(first["data_path"]), show_progress)
    key = dataset_key(first)
    folder = Path(str(out or f"compare/{experiment.name}-{experiment.dataset}"))
    make_out_folder(folder)
    runs = plan(experiment, folder, key)
    failed = run_missing(runs, jobs, lambda failures: write_report(experiment, runs, failures, folder), show_progress)
    write_report(experiment, runs, failed, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(folder / "report.json")
    if failed:
        print(f"error: {len(failed)} of {len(runs)} runs failed; why stands in {folder / 'report.md'}", file=sys.stderr)
        raise SystemExit(1)


def _names(value: Any) -> list[str]:
    entries = value if isinstance(value, list) else str("" if value is None else value).split(",")
    return [str(name).strip() for name in entries if str(name).strip()]


def _numbers(value: Any) -> list[Any]:
    """Return the entries of `1,2,3`, those that are whole numbers as such."""
    return [int(name) if name.isdecimal() else name for name in _names(value)]
