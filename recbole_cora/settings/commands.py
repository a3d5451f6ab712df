"""Options of the commands that are not settings, declared in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_cora.settings.kinds import SettingValues, defaults_of, setting, settings_of_group

SEARCHES = ("random", "grid", "optuna", "hyperopt")
SCHEDULERS = ("none", "asha")


@dataclass(frozen=True)
class RunOptions:
    """recbole-cora run --model=NAME --dataset=NAME [--config_files=FILE.yaml] [--key=value ...]

    Train a model, score it on the valid and test rows, and write a run folder.
    """

    model: Any = setting(None, "CoRA, or any model of --models.")
    dataset: Any = setting(None, "A folder in data_path, or ml-100k, which comes with RecBole.")
    config_files: list[str] = setting([], "YAML files of settings; later files override earlier ones.")
    models: bool = setting(False, "List the models and exit.")


@dataclass(frozen=True)
class CompareOptions:
    """recbole-cora compare (--models=A,B,... --dataset=NAME | --experiment=NAME|FILE.yaml) [--key=value ...]

    Run every system with every seed, and write report.md, report.json and report.csv. Finished runs are kept: after a
    failure or a kill, the same command completes the rest. Each setting applies to every system that has it.
    """

    experiment: str | None = setting(None, "Name of a file in properties/experiments, or path of a YAML file.")
    models: object = setting(None, "Model names, separated by commas.")
    dataset: str | None = setting(None, "Dataset to use instead of the experiment's.")
    seeds: object = setting(None, "Seeds to use instead of the experiment's, separated by commas.")
    out: str | None = setting(None, "Folder for the report; default compare/<experiment>-<dataset>.")
    jobs: int = setting(1, "Number of runs at the same time.", least=1)


@dataclass(frozen=True)
class TuneOptions:
    """recbole-cora tune (--model=NAME --dataset=NAME [--space=FILE.yaml] | --resume=DIR) [--key=value ...]

    Find the settings with the best valid scores, then score the best trial once on the test rows. Write trials.md,
    trials.json, best.yaml (for `run --config_files=`) and search.png.
    """

    model: Any = setting(None, "The model to tune.")
    dataset: Any = setting(None, "A folder in data_path, or ml-100k.")
    config_files: list[str] = setting([], "YAML files of settings; later files override earlier ones.")
    space: str | None = setting(
        None, "YAML file of the search space; default properties/space.yaml: learning_rate and weight_decay."
    )
    search: str = setting("random", "How each trial's settings are drawn.", one_of=SEARCHES)
    scheduler: str = setting("none", "asha stops bad trials early.", one_of=SCHEDULERS)
    num_samples: int | None = setting(None, "Number of trials, default 8; grid: all combinations.", least=1)
    jobs: int | None = setting(None, "Number of trials at the same time, default 1.", least=1)
    cpus: int | None = setting(None, "CPUs per trial; default: all, divided among the jobs.", least=1)
    gpus: float | None = setting(None, "GPUs per trial, such as 0.5; default: all, divided among the jobs.", least=0)
    out: str | None = setting(None, "Folder for the search; default tune/<model>-<dataset>-<time>.")
    resume: str | None = setting(
        None, "Folder of a search to resume; --num_samples, --jobs, --cpus and --gpus may change."
    )
    address: str | None = setting(
        None,
        "Address of a ray cluster, ray://HOST:10001. Its machines need the same packages, and this folder at the same "
        "path.",
    )


def split_options(group: type, arguments: SettingValues) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return a command's options with their defaults, the other arguments, and the problems with the options."""
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
