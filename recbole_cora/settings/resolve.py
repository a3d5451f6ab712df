"""From defaults, presets, files and options to the settings of one run: checked, complete, and frozen.

Order, later ones winning: RecBole's YAML < overall < parts < the model's own < the dataset's < presets < files <
options.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recbole_cora.errors import SettingError, nearest, raise_all
from recbole_cora.settings.kinds import Setting, settings_of_group
from recbole_cora.settings.models import MODELS, Model
from recbole_cora.settings.overall import GROUPS
from recbole_cora.settings.parts import PARTS
from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.recbole import bundled_data, recbole_files, recbole_model_kinds, recbole_settings

#: Keys that name a run rather than set it.
RUN_KEYS = ("model", "dataset", "config_files")
#: Keys that RecBole's code reads or that its users write, and that mean nothing here: each with what to use instead.
_NOT_HERE = {
    "neg_sampling": "train_neg_sample_args",
    "training_neg_sample_num": "train_neg_sample_args",
    "config_file": "config_files",
}
_DATASET = re.compile(r"\w[\w. +-]{0,199}")


@dataclass(frozen=True)
class Settings(Mapping[str, Any]):
    """Every setting of a model on a dataset, by key; nothing writes into it.

    Attributes:
        model, dataset: their names.
        declared: every key that may be set for this model.
        data: the value of every key.
        chosen: of the keys that files or options set.
    """

    model: str
    dataset: str
    declared: Mapping[str, Setting]
    data: Mapping[str, Any]
    chosen: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        if key not in self.data:
            raise SettingError(f"setting '{key}' is missing{nearest(key, self.data)}")
        return copy.deepcopy(self.data[key])

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` for a setting that this model does not have."""
        return self[key] if key in self.data else default

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __deepcopy__(self, memo: Any) -> Settings:
        return self  # frozen; KD_DAGFM copies its config

    @property
    def needs(self) -> frozenset[str]:
        """The ready parts that the model is built from."""
        return MODELS[self.model].needs if self.model in MODELS else frozenset()

    def shapes_results(self, key: str) -> bool:
        """Whether a setting changes weights or scores."""
        return self.declared[key].shapes_results

    @property
    def data_folder(self) -> Path:
        """The folder of the dataset's files; ml-100k's lies inside RecBole."""
        return bundled_data(self.dataset) or Path(self["data_path"]) / self.dataset

    def content(self) -> dict[str, Any]:
        """The settings that shape weights or scores, as JSON-able values."""
        return {key: self[key] for key in sorted(self.data) if self.shapes_results(key)}

    def own(self) -> dict[str, Any]:
        """The settings that this package declares for the model, without RecBole's."""
        names = {name for group in _groups(self.model) for name in settings_of_group(group)}
        return {key: self[key] for key in self.data if key in names}

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """Return settings in which `defaults` stand where neither file nor option chose; unknown keys are left out.

        Raises:
            SettingError: a value outside its range.
        """
        return self.with_values({k: v for k, v in defaults.items() if k in self.declared and k not in self.chosen})

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """Return settings with these values, which do not count as chosen.

        Raises:
            SettingError: an unknown key, or a value outside its range.
        """
        read, problems = _read(values, self.declared, self.model)
        raise_all(problems, SettingError)
        return _checked(replace(self, data=MappingProxyType({**self.data, **read})))


def resolve(
    model: Any, dataset: Any, options: Mapping[str, Any] | None = None, config_files: Sequence[str] | None = None
) -> Settings:
    """Return the settings of a model on a dataset. Imports neither torch nor recbole, and reads nothing but YAML files.

    Args:
        options: settings that win over the files.
        config_files: YAML files, later ones winning.

    Raises:
        SettingError: everything that is wrong, in one line: unknown names and keys, values outside their range.
    """
    chosen: dict[str, Any] = {}
    for file in config_files or ():
        chosen |= read_yaml(Path(file))
    chosen |= options or {}
    chosen = {key: value for key, value in chosen.items() if key not in RUN_KEYS}
    check_names(model, dataset)
    declared = declared_settings(model, dataset)
    read, problems = _read(chosen, declared, model)
    raise_all(problems, SettingError)
    defaults = {key: each.default for key, each in declared.items()}
    values = MappingProxyType({**defaults, **read})
    return _checked(Settings(model, dataset, declared, values, MappingProxyType(read)))


def check_names(model: Any, dataset: Any) -> None:
    """Raise SettingError for a model that does not exist, or a dataset whose name cannot be a folder's."""
    known = {**recbole_model_kinds(), **dict.fromkeys(MODELS)}
    if not isinstance(model, str):
        raise SettingError(f"model is {model!r}; expected one name, such as CoRA")
    if model not in known:
        raise SettingError(
            f"unknown model '{model[:80]}'{nearest(model[:80], known)} (recbole-cora run --models lists them)"
        )
    if not isinstance(dataset, str) or not _DATASET.fullmatch(dataset):
        raise SettingError(
            f"dataset is {str(dataset)[:80]!r}; expected the name of a folder in data_path, of letters, digits, spaces "
            "and ._+- (its place goes into --data_path=)"
        )


@cache
def declared_settings(model: str, dataset: str) -> Mapping[str, Setting]:
    """Return every key that may be set for a model on a dataset, with the default that it has there."""
    kind = MODELS[model].kind if model in MODELS else recbole_model_kinds()[model]
    declared: dict[str, Setting] = {}
    for path in recbole_files(model, kind, dataset):
        for key, each in recbole_settings(path).items():
            if key in declared:
                optional = declared[key].optional or each.default is None
                each = replace(declared[key], default=each.default, optional=optional)
            declared[key] = each
    for group in _groups(model):
        declared |= settings_of_group(group)
    layers = [MODELS[model].defaults if model in MODELS else {}, _dataset_defaults(dataset)]
    for layer in layers:
        for key, value in layer.items():
            if key in declared:
                declared[key] = replace(declared[key], default=value)
    return MappingProxyType(declared)


def _groups(model: str) -> list[type[Any]]:
    """The groups of this package that a model has settings of, in the order in which they are shown."""
    own: type[Model] = MODELS.get(model, Model)
    parts = [part for part in PARTS if part.needed_for & own.needs]
    return [*GROUPS, *parts, *([own] if model in MODELS else [])]


def groups_of(model: str) -> dict[str, dict[str, Setting]]:
    """Return the settings of a model by group, each group under its title; RecBole's own come last."""
    declared = declared_settings(model, "")
    titles: dict[str, dict[str, Setting]] = {}
    ours: set[str] = set()
    for group in _groups(model)[::-1]:
        names = [name for name in settings_of_group(group) if name not in ours]
        if names:
            titles[(group.__doc__ or "").strip().splitlines()[0]] = {name: declared[name] for name in names}
        ours |= set(names)
    rest = {key: each for key, each in declared.items() if key not in ours}
    own = {k for path in recbole_files(model, "", "") if path.parent.name == "model" for k in recbole_settings(path)}
    titles |= {f"RecBole's {model}": {key: each for key, each in rest.items() if key in own}} if own & set(rest) else {}
    titles |= {"RecBole": {key: each for key, each in rest.items() if key not in own}}
    return titles


@cache
def _dataset_defaults(dataset: str) -> dict[str, Any]:
    path = PROPERTIES / "dataset" / f"{dataset}.yaml"
    return read_yaml(path) if dataset and path.is_file() else {}


def _read(
    values: Mapping[str, Any], declared: Mapping[str, Setting], model: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The values as their settings hold them, and what is wrong with those that are left out."""
    read, problems = {}, []
    for key, value in values.items():
        if key in _NOT_HERE:
            problems.append(f"setting '{key}' has no effect; use {_NOT_HERE[key]}")
        elif key not in declared:
            problems.append(f"unknown setting '{str(key)[:80]}' for --model={model}{nearest(str(key)[:80], declared)}")
        else:
            try:
                read[key] = copy.deepcopy(declared[key].read(value))
            except ValueError as error:
                problems.append(str(error))
    return read, problems


def _checked(settings: Settings) -> Settings:
    """`settings`, where values that must fit together do. Raises SettingError."""
    for group in _groups(settings.model):
        if hasattr(group, "__post_init__"):
            group(**{field.name: settings.data[field.name] for field in fields(group)})
    _check_rows(settings)
    for key, model in (
        ("cf_config", settings.get("cf_encoder")),
        ("codes_config", "BinaryCodes"),
        ("lora_config", "TALLRec"),
    ):
        if settings.get(key):
            try:
                resolve(model, settings.dataset, settings[key])
            except SettingError as error:
                raise SettingError(f"{key}: {error}") from None
    return settings


def _check_rows(settings: Settings) -> None:
    mode = settings["eval_args"].get("mode", "labeled")
    if mode not in ("labeled", {"valid": "labeled", "test": "labeled"}):
        raise SettingError(
            f"eval_args.mode is {mode!r}; expected 'labeled': every model is scored on the rated rows "
            "(for full ranking use RecBole's own run_recbole.py)"
        )
    threshold = settings["threshold"]
    if threshold and (len(threshold) != 1 or not all(type(value) in (int, float) for value in threshold.values())):
        raise SettingError(f"threshold is {threshold!r}; expected one column and number, such as {{rating: 4}}")
