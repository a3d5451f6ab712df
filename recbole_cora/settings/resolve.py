"""The settings of one run, resolved from defaults, presets, files and options: checked, complete and frozen.

Precedence, lowest first: RecBole's YAML < overall < parts < the model's < the dataset's < presets < files < options.
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
from recbole_cora.settings.kinds import Setting, SettingValues, defaults_of, settings_of_group
from recbole_cora.settings.models import MODELS, Model
from recbole_cora.settings.overall import GROUPS
from recbole_cora.settings.parts import PARTS
from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.recbole import bundled_data, recbole_files, recbole_model_kinds, recbole_settings

#: Keys that say what to run. They are not settings.
RUN_KEYS = ("model", "dataset", "config_files")
#: RecBole keys that have no effect here, each with the key to use instead.
_REPLACEMENTS = {
    "neg_sampling": "train_neg_sample_args",
    "training_neg_sample_num": "train_neg_sample_args",
    "config_file": "config_files",
}
_DATASET = re.compile(r"\w[\w. +-]{0,199}")


@dataclass(frozen=True)
class Settings(Mapping[str, Any]):
    """All settings of a model on a dataset, by key; read-only.

    Attributes:
        model, dataset: their names.
        declared: the declaration of every key that may be set for this model.
        data: the value of every key.
        chosen: the values that files or options set.
    """

    model: str
    dataset: str
    declared: Mapping[str, Setting]
    data: SettingValues
    chosen: SettingValues

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return self  # it is frozen; KD_DAGFM deep-copies its config

    @property
    def needs(self) -> frozenset[str]:
        """The names of the parts that the model is built from."""
        return MODELS[self.model].needs if self.model in MODELS else frozenset()

    def shapes_results(self, key: str) -> bool:
        """Return whether a setting changes weights or scores."""
        return self.declared[key].shapes_results

    @property
    def data_folder(self) -> Path:
        """The folder of the dataset's files; ml-100k is inside RecBole."""
        return bundled_data(self.dataset) or Path(self["data_path"]) / self.dataset

    def content(self) -> dict[str, Any]:
        """Return the settings that shape weights or scores, as JSON-able values; without those at a neutral value."""
        return {
            key: self[key]
            for key in sorted(self.data)
            if self.shapes_results(key)
            and (self.declared[key].neutral is None or self.declared[key].neutral != self[key])
        }

    def package_settings(self) -> dict[str, Any]:
        """Return the settings that this package declares for the model, without RecBole's."""
        names = {name for group in _groups_of(self.model) for name in settings_of_group(group)}
        return {key: self[key] for key in self.data if key in names}

    def with_defaults(self, defaults: SettingValues) -> Settings:
        """Return settings with `defaults` for keys that no file or option set. Keys that the model lacks are ignored.

        Raises:
            SettingError: a value is out of range.
        """
        return self.with_values({k: v for k, v in defaults.items() if k in self.declared and k not in self.chosen})

    def with_values(self, values: SettingValues) -> Settings:
        """Return settings with these values, which do not count as set by the user.

        Raises:
            SettingError: a key is unknown, or a value is out of range.
        """
        new_values, problems = _read_values(values, self.declared, self.model)
        raise_all(problems, SettingError)
        return _validated(replace(self, data=MappingProxyType({**self.data, **new_values})))


def resolve(
    model: Any, dataset: Any, options: SettingValues | None = None, config_files: Sequence[str] | None = None
) -> Settings:
    """Return the settings of a model on a dataset. This imports neither torch nor recbole, and reads only YAML files.

    Args:
        options: settings that override the files.
        config_files: YAML files; later files win.

    Raises:
        SettingError: names or keys are unknown, or values are out of range; one line names them all.
    """
    chosen: dict[str, Any] = {}
    for file in config_files or ():
        chosen |= read_yaml(Path(file))
    chosen |= options or {}
    chosen = {key: value for key, value in chosen.items() if key not in RUN_KEYS}
    check_names(model, dataset)
    declared = declared_settings(model, dataset)
    values, problems = _read_values(chosen, declared, model)
    raise_all(problems, SettingError)
    complete = MappingProxyType({**defaults_of(declared), **values})
    return _validated(Settings(model, dataset, declared, complete, MappingProxyType(values)))


def check_names(model: object, dataset: object) -> None:
    """Raise SettingError if there is no such model, or the dataset's name cannot be a folder name."""
    models = {**recbole_model_kinds(), **dict.fromkeys(MODELS)}
    if not isinstance(model, str):
        raise SettingError(f"model is {model!r}; expected one name, such as CoRA")
    if model not in models:
        raise SettingError(
            f"unknown model '{model[:80]}'{nearest(model[:80], models)} (recbole-cora run --models lists them)"
        )
    if not isinstance(dataset, str) or not _DATASET.fullmatch(dataset):
        raise SettingError(
            f"dataset is {str(dataset)[:80]!r}; expected the name of a folder in data_path, made of letters, digits, "
            "spaces and ._+- (use --data_path= for the parent folder)"
        )


@cache
def declared_settings(model: str, dataset: str) -> Mapping[str, Setting]:
    """Return every key that may be set for a model on a dataset, with its default there."""
    kind = MODELS[model].kind if model in MODELS else recbole_model_kinds()[model]
    declared: dict[str, Setting] = {}
    for path in recbole_files(model, kind, dataset):
        for key, each in recbole_settings(path).items():
            if key in declared:
                optional = declared[key].optional or each.default is None
                each = replace(declared[key], default=each.default, optional=optional)
            declared[key] = each
    for group in _groups_of(model):
        declared |= settings_of_group(group)
    for defaults in (MODELS[model].defaults if model in MODELS else {}, _dataset_defaults(dataset)):
        for key, value in defaults.items():
            if key in declared:
                declared[key] = replace(declared[key], default=value)
    return MappingProxyType(declared)


def _groups_of(model: str) -> list[type[Any]]:
    """Return this package's groups of settings that a model has, from the general to the model's own."""
    model_group: type[Model] = MODELS.get(model, Model)
    parts = [part for part in PARTS if part.needed_for & model_group.needs]
    return [*GROUPS, *parts, *([model_group] if model in MODELS else [])]


def settings_by_title(model: str) -> dict[str, dict[str, Setting]]:
    """Return the settings of a model by the titles of their groups, the model's own first and RecBole's last."""
    declared = declared_settings(model, "")
    by_title: dict[str, dict[str, Setting]] = {}
    ours: set[str] = set()
    for group in _groups_of(model)[::-1]:
        names = [name for name in settings_of_group(group) if name not in ours]
        if names:
            by_title[(group.__doc__ or "").strip().splitlines()[0]] = {name: declared[name] for name in names}
        ours |= set(names)
    theirs = {key: each for key, each in declared.items() if key not in ours}
    model_files = [path for path in recbole_files(model, "", "") if path.parent.name == "model"]
    model_keys = {key for path in model_files for key in recbole_settings(path)} & set(theirs)
    if model_keys:
        by_title[f"RecBole's {model}"] = {key: each for key, each in theirs.items() if key in model_keys}
    by_title["RecBole"] = {key: each for key, each in theirs.items() if key not in model_keys}
    return by_title


@cache
def _dataset_defaults(dataset: str) -> dict[str, Any]:
    path = PROPERTIES / "dataset" / f"{dataset}.yaml"
    return read_yaml(path) if dataset and path.is_file() else {}


def _read_values(
    values: SettingValues, declared: Mapping[str, Setting], model: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Return the valid values, converted to their settings' types, and the problems with the others."""
    valid, problems = {}, []
    for key, value in values.items():
        if key in _REPLACEMENTS:
            problems.append(f"setting '{key}' has no effect; use {_REPLACEMENTS[key]}")
        elif key not in declared:
            problems.append(f"unknown setting '{str(key)[:80]}' for --model={model}{nearest(str(key)[:80], declared)}")
        else:
            try:
                valid[key] = copy.deepcopy(declared[key].read(value))
            except ValueError as error:
                problems.append(str(error))
    return valid, problems


def _validated(settings: Settings) -> Settings:
    """Return `settings`. Raises SettingError if their values do not fit together."""
    for group in _groups_of(settings.model):
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
    """Raise SettingError if rows are not scored by their labels, or the threshold is not one column and number."""
    mode = settings["eval_args"].get("mode", "labeled")
    if mode not in ("labeled", {"valid": "labeled", "test": "labeled"}):
        raise SettingError(
            f"eval_args.mode is {mode!r}; expected 'labeled': every model is scored on the rated rows "
            "(for full ranking, use RecBole's run_recbole.py)"
        )
    threshold = settings["threshold"]
    if threshold and (len(threshold) != 1 or not all(type(value) in (int, float) for value in threshold.values())):
        raise SettingError(f"threshold is {threshold!r}; expected one column and number, such as {{rating: 4}}")
