"""An experiment: several systems on one dataset, each with several seeds.

It is read from a YAML file (see `properties/experiments/`):

    dataset: ml-1m
    seeds: [1, 2, 3]
    settings: {llm: tiny}           # for every system that has the key
    systems:
      - {name: CoRA-MF, model: CoRA, cf_encoder: MF, published: {ml-1m: [0.7361, 0.6884]}}
      - {name: MF, model: MF}
    pairs: [[CoRA-MF, MF]]          # compared in the report, beside the best system with each other
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_cora.compare.pairs import read_pairs
from recbole_cora.errors import CoraError, SettingError, nearest, raise_all
from recbole_cora.llm.choice import with_llm
from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.resolve import Settings, check_names, declared_settings, resolve

_FOLDER = PROPERTIES / "experiments"
_KEYS = ("dataset", "seeds", "settings", "systems", "pairs")
#: The largest seed that numpy accepts.
_LAST_SEED = 2**32 - 1
#: Settings of a run that the comparison sets itself.
_RESERVED = {"seed", "model", "dataset", "config_files", "checkpoint_dir", "resume"}
_RESERVED_WHY = "use --seeds=, --dataset= and --out= of compare; it resumes by itself"


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        name: the row's name.
        model: the model's name.
        settings: the system's own settings.
        published: AUC and UAUC by dataset, with a 7B LLM, from the paper's Table 3.
    """

    name: str
    model: str
    settings: dict[str, object]
    published: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Experiment:
    """Systems on a dataset, each with every seed. A system ignores the shared `settings` that it does not have.

    `pairs` are the names of systems whose difference the report states.
    """

    name: str
    dataset: str
    seeds: tuple[int, ...]
    settings: dict[str, object]
    systems: tuple[System, ...]
    pairs: tuple[tuple[str, str], ...] = ()

    def chosen_settings(self, system: System, seed: int) -> Settings:
        """Return the settings of a run before its LLM is chosen.

        Raises:
            SettingError: the system does not have a setting, or a value is outside its range.
        """
        declared = declared_settings(system.model, self.dataset)
        shared_settings = {key: value for key, value in self.settings.items() if key in declared}
        return resolve(system.model, self.dataset or "any", {**shared_settings, **system.settings, "seed": seed})

    def run_settings(self, system: System, seed: int) -> Settings:
        """Return the settings of a run."""
        settings = self.chosen_settings(system, seed)
        return with_llm(settings)[0] if "llm" in settings.needs else settings  # the preset of an LLM changes settings


def built_in() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def make_experiment(
    file: object,
    models: list[str],
    dataset: object,
    seeds: object,
    settings: Mapping[str, object],
    other_problems: Sequence[str] = (),
) -> Experiment:
    """Return an experiment from a built-in name or a file, from model names, or from both.

    Args:
        file, dataset, seeds: unchecked values of the command line. None takes the dataset or seeds from the file.
        models: the names of models, each of which is one more system.
        settings: shared settings that override the file's.
        other_problems: mistakes in the command, to be reported with those of the experiment.

    Raises:
        SettingError: names every mistake in the experiment and in the settings of its systems.
    """
    problems: list[str] = []
    try:
        content = {} if file is None else _read(str(file), problems)
    except SettingError as error:
        raise SettingError("; ".join([*other_problems, str(error)])) from None
    entries = _list(content, "systems", problems) + [{"name": name, "model": name} for name in models]
    systems = tuple(system for entry in entries if (system := _system(entry, problems)) is not None)
    dataset_name = _dataset(content.get("dataset") if dataset is None else dataset, problems)
    if not problems and not (systems and dataset_name):
        problems.append(
            "a comparison needs --models= and --dataset=, or --experiment=: for example --models=CoRA,MF "
            f"--dataset=ml-100k, or one of {', '.join(built_in())}"
        )
    names = [system.name for system in systems]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    problems += [f"two systems are named '{name}'; give each a name of its own" for name in duplicates]
    if seeds is None:
        seeds = [1] if content.get("seeds") is None else content["seeds"]
    numbers = _seeds(seeds, problems)
    shared_settings = {**_mapping("settings", content.get("settings"), problems), **settings}
    for key in sorted(_RESERVED & set(shared_settings)):
        problems.append(f"settings: '{key}' cannot be set here; {_RESERVED_WHY}")
    name = "comparison" if file is None else Path(str(file)).stem
    pairs = read_pairs(content.get("pairs"), names, problems)
    experiment = Experiment(name, dataset_name, numbers, shared_settings, systems, pairs)
    problems += _wrong_settings(experiment)
    if problems and file is not None:
        problems[0] = f"{file}: {problems[0]}"
    raise_all([*other_problems, *problems], SettingError)
    return experiment


def _read(file: str, problems: list[str]) -> dict[str, object]:
    """Return the content of an experiment's file; unknown entries go to `problems`.

    Raises:
        SettingError: there is no such experiment, or its file cannot be read.
    """
    path = _FOLDER / f"{file}.yaml"
    if not _is_file(path):
        path = Path(file)
        if not _is_file(path):
            experiments = built_in()
            raise SettingError(
                f"no experiment '{file}'{nearest(file, experiments)}; expected a YAML file or one of "
                f"{', '.join(experiments)}"
            )
    content = read_yaml(path)
    for key in content:
        if key not in _KEYS:
            problems.append(f"unknown entry '{key}'{nearest(str(key), _KEYS)}; expected {', '.join(_KEYS)}")
    return content


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def _list(content: Mapping[str, object], key: str, problems: list[str]) -> list[object]:
    """Return the list under `key`, or an empty one; a value that is not a list goes to `problems`."""
    value = content.get(key)
    if value is not None and not isinstance(value, list):
        problems.append(f"{key} is {value!r}; expected a list, as in properties/experiments/")
        return []
    return value or []


def _mapping(what: str, value: object, problems: list[str]) -> dict[str, Any]:
    """Return a mapping, or an empty one for None; a value that is not a mapping goes to `problems`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(f"{what} is {value!r}; expected lines of the form 'key: value'")
        return {}
    return value


def _dataset(value: object, problems: list[str]) -> str:
    """Return the dataset's name, or "" for None; a value that is not text goes to `problems`."""
    if value is not None and not isinstance(value, str):
        problems.append(f"dataset is {value!r}; expected a name such as ml-100k")
        return ""
    return value or ""


def _seeds(value: object, problems: list[str]) -> tuple[int, ...]:
    """Return the valid seeds; invalid and repeated ones go to `problems`."""
    entries = value if isinstance(value, list) else []
    good = [s for s in entries if isinstance(s, int) and not isinstance(s, bool) and 0 <= s <= _LAST_SEED]
    if len(good) < len(entries) or not good:
        problems.append(f"seeds is {value!r}; expected whole numbers from 0 to {_LAST_SEED}, such as 1,2,3")
    duplicates = sorted({seed for seed in good if good.count(seed) > 1})
    problems += [f"seed {seed} is listed twice; give each seed once" for seed in duplicates]
    return tuple(good)


def _system(entry: object, problems: list[str]) -> System | None:
    """Return the system of an entry, or None if its model is unknown; mistakes go to `problems`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        problems.append(f"a system is {entry!r}; expected a mapping with at least 'model: NAME'")
        return None
    name = entry.get("name", entry["model"])
    if not isinstance(name, (str, int, float)) or not str(name).strip():
        problems.append(f"a system's name is {name!r}; expected text")
    name = " ".join(str(name).split())
    settings = {key: value for key, value in entry.items() if key not in ("name", "model", "published")}
    settings = _mapping(f"system '{name}'", settings, problems)
    for key in sorted(_RESERVED & set(settings)):
        problems.append(f"system '{name}': '{key}' cannot be set here; {_RESERVED_WHY}")
    published = _mapping(f"'published' of system '{name}'", entry.get("published"), problems)
    for dataset, pair in published.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_share(value) for value in pair):
            problems.append(
                f"'published' of system '{name}' has {pair!r} for {dataset}; expected AUC and UAUC, "
                "such as [0.73, 0.68]"
            )
    try:
        check_names(entry["model"], "any")
    except CoraError as error:
        problems.append(str(error))
        return None
    return System(name, entry["model"], settings, {d: tuple(p) for d, p in published.items() if isinstance(p, list)})


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _wrong_settings(experiment: Experiment) -> list[str]:
    """Return the problems with settings: shared ones that no system has, and values that a system refuses."""
    declared_keys: set[str] = set()
    systems_by_problem: dict[str, list[str]] = {}
    for system in experiment.systems:
        try:
            declared_keys |= set(declared_settings(system.model, experiment.dataset or "any"))
            experiment.chosen_settings(system, 0)
        except CoraError as error:
            systems_by_problem.setdefault(str(error), []).append(system.name)
    names = ", ".join(system.name for system in experiment.systems)
    unknown_keys = [key for key in experiment.settings if declared_keys and key not in declared_keys]
    return [f"unknown setting '{key}' for all of {names}{nearest(key, declared_keys)}" for key in unknown_keys] + [
        f"{', '.join(systems)}: {problem}" for problem, systems in systems_by_problem.items()
    ]
