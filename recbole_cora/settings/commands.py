"""Options of the commands beside settings, declared as settings are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_cora.settings.kinds import defaults_of, setting, settings_of_group

SEARCHES = ("random", "grid", "optuna", "hyperopt")
SCHEDULERS = ("none", "asha")


@dataclass(frozen=True)
class RunOptions:
    """recbole-cora run --model=NAME --dataset=NAME [--config_files=FILE.yaml] [--key=value ...]

    Train a model, score it on the valid and test rows, and write a run folder.
    """

    model: Any = setting(None, "CoRA, or any model of --models.")
    dataset: Any = setting(None, "A folder of data_path, or ml-100k, which comes with RecBole.")
    config_files: list[str] = setting([], "YAML files of settings, later ones winning.")
    models: bool = setting(False, "List the models and end.")


@dataclass(frozen=True)
class CompareOptions:
    """recbole-cora compare (--models=A,B,... --dataset=NAME | --experiment=NAME|FILE.yaml) [--key=value ...]

    Run every system with every seed, and write report.md, report.json and report.csv. Finished runs are kept; after a
    failure or a kill, the same command completes the rest. Settings go to each system that has them.
    """

    experiment: str | None = setting(None, "A name of properties/experiments, or a YAML file.")
    models: Any = setting(None, "Names of models, separated by commas.")
    dataset: str | None = setting(None, "Instead of the experiment's.")
    seeds: Any = setting(None, "Whole numbers, separated by commas; instead of the experiment's.")
    out: str | None = setting(None, "Folder of the report; default compare/<experiment>-<dataset>.")
    jobs: int = setting(1, "Runs at once.", least=1)


@dataclass(frozen=True)
class TuneOptions:
    """recbole-cora tune (--model=NAME --dataset=NAME [--space=FILE.yaml] | --resume=DIR) [--key=value ...]

    Search settings by the valid rows, then score the best trial on the test rows, once. Write trials.md, trials.json,
    best.yaml (for `run --config_files=`) and search.png.
    """

    model: Any = setting(None, "The model whose settings are searched.")
    dataset: Any = setting(None, "A folder of data_path, or ml-100k.")
    config_files: list[str] = setting([], "YAML files of settings, later ones winning.")
    space: str | None = setting(
        None, "YAML of what is searched; default properties/space.yaml: learning_rate and weight_decay."
    )
    search: str = setting("random", "How settings are drawn.", one_of=SEARCHES)
    scheduler: str = setting("none", "asha stops bad trials early.", one_of=SCHEDULERS)
    num_samples: int | None = setting(None, "Trials, default 8; grid: all there are.", least=1)
    jobs: int | None = setting(None, "Trials at once, default 1.", least=1)
    cpus: int | None = setting(None, "CPUs of a trial; default: all, shared by the jobs.", least=1)
    gpus: float | None = setting(None, "GPUs of a trial, such as 0.5; default: all, shared by the jobs.", least=0)
    out: str | None = setting(None, "Folder of the search; default tune/<model>-<dataset>-<time>.")
    resume: str | None = setting(
        None, "Folder of a search to complete; --num_samples, --jobs, --cpus and --gpus may change."
    )
    address: str | None = setting(
        None, "ray://HOST:10001, a ray cluster; its machines need the packages, and this folder at the same path."
    )


def split_options(group: type, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return a command's own options, complete; the other arguments; and what is wrong with the options."""
    declared = settings_of_group(group)
    options, rest, problems = defaults_of(declared), {}, []
    for key, value in arguments.items():
        if key not in declared:
            rest[key] = value
            continue
        try:
            options[key] = declared[key].read(value)
        except ValueError as error:
            problems.append(f"--{error}")
    return options, rest, problems
