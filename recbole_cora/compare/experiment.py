"""What is compared: systems, on one dataset, over seeds.

An experiment is a YAML file (see `properties/experiments/`):

    dataset: ml-1m
    seeds: [1, 2, 3]
    settings: {llm: tiny}           # for every system that knows the key
    systems:
      - {name: CoRA-MF, model: CoRA, cf_encoder: MF, published: {ml-1m: [0.7361, 0.6884]}}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_cora.errors import SettingError, nearest
from recbole_cora.parts.llm import choose_llm
from recbole_cora.registry import model_class
from recbole_cora.settings import PROPERTIES, CoraConfig, read_yaml

_FOLDER = PROPERTIES / "experiments"
_KEYS = ("dataset", "seeds", "settings", "systems")


@dataclass(frozen=True)
class System:
    """One row of the table.

    name: of the row; model: of the registry.
    settings: what makes it this system.
    published: AUC and UAUC by dataset, of a 7B LLM, from the paper's Table 3.
    """

    name: str
    model: str
    settings: dict[str, Any]
    published: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Experiment:
    """Systems on a dataset, each with every seed; `settings` are for those that know them."""

    name: str
    dataset: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    systems: tuple[System, ...]

    def config(self, system: System, seed: int) -> CoraConfig:
        """A run's settings. Raises SettingError for a setting of its own that a system does not know."""
        cls = model_class(system.model)
        known = CoraConfig(cls, self.dataset).known
        shared = {key: value for key, value in self.settings.items() if key in known}
        config = CoraConfig(cls, self.dataset, {**shared, **system.settings, "seed": seed})
        if "llm" in getattr(cls, "needs", ()):
            choose_llm(config)  # its presets are settings too
        return config


def built_in() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def make_experiment(
    file: str | None, models: list[str], dataset: str | None, seeds: list[int] | None, settings: dict[str, Any]
) -> Experiment:
    """From a built-in name or a file, or from model names; what is given beside a file wins over it.

    Raises:
        SettingError: neither; no such file; an entry that is not one of an experiment's; a setting nobody knows.
    """
    content = _read(file) if file else {"dataset": None, "seeds": [1], "settings": {}, "systems": []}
    named = [{"name": name, "model": name} for name in models]
    systems = tuple(_system(entry, file or "--models") for entry in [*content["systems"], *named])
    dataset = dataset or content["dataset"]
    if not systems or not dataset:
        raise SettingError(
            "a comparison needs --models= and --dataset=, or --experiment=: for example --models=CoRA,MF "
            f"--dataset=ml-100k, or one of {', '.join(built_in())}"
        )
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise SettingError(f"{file}: two systems are named '{max(names, key=names.count)}'; give each its own name")
    made = Experiment(
        Path(file).stem if file else "comparison", str(dataset), tuple(seeds or content["seeds"]),
        {**content["settings"], **settings}, systems,
    )  # fmt: skip
    known = {key for system in systems for key in CoraConfig(model_class(system.model), made.dataset).known}
    for key in made.settings:
        if key not in known:
            raise SettingError(f"unknown setting '{key}' for all of {', '.join(names)}{nearest(key, known)}")
    return made


def _read(file: str) -> dict[str, Any]:
    path = _FOLDER / f"{file}.yaml"
    if not path.is_file():
        path = Path(file)
        if not path.is_file():
            known = built_in()
            raise SettingError(
                f"no experiment '{file}'{nearest(file, known)}; expected a YAML file or one of {', '.join(known)}"
            )
    content = read_yaml(path)
    for key in content:
        if key not in _KEYS:
            raise SettingError(f"{path}: unknown entry '{key}'{nearest(key, _KEYS)}; expected {', '.join(_KEYS)}")
    content = {"dataset": None, "seeds": [1], "settings": {}, "systems": [], **content}
    if not isinstance(content["systems"], list) or not isinstance(content["seeds"], list):
        raise SettingError(f"{path}: systems and seeds are lists; see properties/experiments/ for examples")
    return content


def _system(entry: Any, where: str) -> System:
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise SettingError(f"{where}: a system is {entry!r}; expected a mapping with at least 'model: NAME'")
    model_class(entry["model"])
    settings = {key: value for key, value in entry.items() if key not in ("name", "model", "published")}
    published = {name: tuple(pair) for name, pair in (entry.get("published") or {}).items()}
    return System(str(entry.get("name", entry["model"])), entry["model"], settings, published)
