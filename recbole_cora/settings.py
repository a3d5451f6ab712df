"""Settings in RecBole's habits and order, parsed safely.

Order: internal YAML (RecBole's, then ours in `properties/`) < `--config_files=` < dict < `--key=value`.
RecBole passes command-line values to `eval`; here every value is YAML read by a safe loader, and a key that no
default declares is an error that names the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_cora.errors import SettingError, nearest

_HERE = Path(__file__).resolve().parent
#: In an installed wheel the folder lies inside the package, in a checkout beside it.
PROPERTIES = next(p for p in (_HERE / "properties", _HERE.parent / "properties") if p.is_dir())

#: Files of `properties/parts`, each read for models that need one of these parts (see `recbole_cora.parts`).
_PARTS = {
    "llm": {"llm"}, "encoder": {"encoder", "codes"}, "codes": {"codes"}, "lora": {"lora", "tallrec"},
    "tallrec": {"tallrec"},
}  # fmt: skip
#: Settings that change nothing in what is trained.
NOT_CONTENT = (
    "data_path", "cache_dir", "checkpoint_dir", "show_progress", "state", "use_gpu", "gpu_id", "device", "worker",
    "references", "resume", "save_every", "keep_states", "save_scores",
)  # fmt: skip
#: Keys that name a run rather than set it.
_RUN_KEYS = ("model", "dataset", "config_files")


class _SafeLoader(yaml.SafeLoader):
    """YAML's safe loader, with floats like `1e-3` read as numbers (YAML 1.1 wants `1.0e-3`)."""


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_value(text: str) -> Any:
    """One command-line value, read as YAML. Raises SettingError where it is not YAML."""
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError:
        raise SettingError(
            f"cannot read the value {text!r}; expected a YAML value such as 0.001, true or [a, b]"
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises SettingError where it is missing or no mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SafeLoader)
    except OSError as error:
        raise SettingError(
            f"cannot read the settings file {path} ({error.strerror}); give the path of a YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise SettingError(f"{path} is not YAML{line}; expected lines of the form 'key: value'") from None
    if not isinstance(content or {}, dict):
        raise SettingError(f"{path} holds a {type(content).__name__}; expected lines of the form 'key: value'")
    return content or {}


def parse_arguments(arguments: list[str], alone: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """`--key=value` arguments as a dict; `--key value` is taken too. Everything after the first `=` is the value.

    Args:
        alone: values of keys that may stand without one.
    """
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise SettingError(f"got the argument {argument!r}; expected --key=value")
        key, equals, text = argument[2:].partition("=")
        if not equals:
            if rest and not rest[0].startswith("--"):
                text = rest.pop(0)
            elif key in alone:
                text = alone[key]
            else:
                raise SettingError(f"--{key} has no value; write --{key}=value")
        value = text.split() if key == "config_files" else read_value(text)
        if key in options and options[key] != value:
            raise SettingError(f"--{key} is given twice, as {options[key]!r} and {value!r}; keep one")
        options[key] = value
    return options


class CoraConfig(Config):
    """RecBole's Config with safe parsing, our defaults, key checking and untouched CUDA_VISIBLE_DEVICES.

    Args:
        model: the model's class (see `registry`), RecBole's own or ours.
        dataset: the dataset's name; its files lie in `<data_path>/<dataset>/`.
        options: settings that win over the files: a dict, already parsed.
        config_files: YAML files, later ones winning.

    Attributes:
        known: every key that may be set for this model.

    Raises:
        SettingError: an unknown key, or a value outside its range.
    """

    def __init__(
        self,
        model: type,
        dataset: str,
        options: dict[str, Any] | None = None,
        config_files: list[str] | None = None,
    ) -> None:
        self._options = {k: v for k, v in (options or {}).items() if k not in _RUN_KEYS}
        super().__init__(model=model, dataset=dataset, config_file_list=config_files)

    # -- reading -------------------------------------------------------------------------------------------------

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _SafeLoader

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict  # RecBole's runs every string through eval

    def _load_config_files(self, file_list: list[str] | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list or []:
            merged.update(read_yaml(Path(file)))
        return {k: v for k, v in merged.items() if k not in _RUN_KEYS}

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._options

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        known_to_recbole = set(self.internal_config_dict) | {k for keys in self.parameters.values() for k in keys}
        for file in ("overall.yaml", *_own_files(model_class), f"dataset/{dataset}.yaml"):
            if (PROPERTIES / file).is_file():
                self.internal_config_dict.update(read_yaml(PROPERTIES / file))
        self.known = known_to_recbole | set(self.internal_config_dict)
        for key in self.external_config_dict:
            if key not in self.known:
                raise SettingError(f"unknown setting '{key}' for --model={model}{nearest(key, self.known)}")
        if self.external_config_dict.get("train_batch_size") == "auto":  # the default's rows, in parts that may shrink
            del self.external_config_dict["train_batch_size"]
            self.internal_config_dict["batches_may_shrink"] = True
        self.label_aware = is_label_aware(model_class)
        # RecBole's defaults sample negatives for every model; a model that reads labels takes the rows as they are.
        if self.label_aware or self._uses_cross_entropy(model_class):
            self.internal_config_dict["train_neg_sample_args"] = None

    def _uses_cross_entropy(self, model_class: type) -> bool:
        loss = {**self.internal_config_dict, **self.external_config_dict}.get("loss_type")
        return model_class.type == ModelType.SEQUENTIAL and loss == "CE"  # type: ignore[attr-defined]

    # -- checking ------------------------------------------------------------------------------------------------

    def _set_default_parameters(self) -> None:
        settings = self.final_config_dict
        modes = settings["eval_args"].get("mode", "labeled")
        if modes not in ("labeled", {"valid": "labeled", "test": "labeled"}):
            raise SettingError(
                f"eval_args.mode is {modes!r}; expected 'labeled': every model is scored on the rated rows "
                "(for full ranking use RecBole's own run_recbole.py)"
            )
        for key in ("epochs", "train_batch_size", "eval_batch_size", "gradient_accumulation"):
            if not isinstance(settings[key], int) or settings[key] < 1:
                raise SettingError(f"{key} is {settings[key]!r}; expected a whole number of at least 1")
        if not isinstance(settings["learning_rate"], (int, float)) or settings["learning_rate"] <= 0:
            raise SettingError(f"learning_rate is {settings['learning_rate']!r}; expected a number above 0")
        try:
            super()._set_default_parameters()
        except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
            raise SettingError(f"RecBole refuses these settings: {error}") from None

        if settings["eval_type"] != EvaluatorType.VALUE:
            raise SettingError(f"metrics is {settings['metrics']}; expected some of AUC, UAUC, LogLoss, MAE, RMSE")

    def _init_device(self) -> None:
        """As RecBole's, for one process, without overwriting CUDA_VISIBLE_DEVICES (ray and torchrun place by it)."""
        settings = self.final_config_dict
        use_gpu = bool(settings["use_gpu"]) and torch.cuda.is_available()
        settings.update(single_spec=True, local_rank=0, device=torch.device("cuda" if use_gpu else "cpu"))

    def require(self, key: str) -> Any:
        """The value of `key`, or a SettingError: RecBole's `config[key]` answers None for a key that is missing."""
        if key not in self.final_config_dict:
            raise SettingError(f"setting '{key}' is missing{nearest(key, self.final_config_dict)}")
        return self.final_config_dict[key]

    @staticmethod
    def part_keys(part: str) -> set[str]:
        """The settings of a part, such as "llm"."""
        return set(read_yaml(PROPERTIES / "parts" / f"{part}.yaml"))

    @staticmethod
    def own_keys(model_class: type) -> set[str]:
        """The settings that a model has of its own, and of its parts; none, where it is RecBole's."""
        files = [PROPERTIES / file for file in _own_files(model_class)]
        return {key for file in files if file.is_file() for key in read_yaml(file)}

    def content(self) -> dict[str, Any]:
        """`public`, without what changes nothing in what is trained."""
        return {k: v for k, v in self.public().items() if k not in NOT_CONTENT}

    def public(self) -> dict[str, Any]:
        """Every setting as JSON-able values, for `result.json`."""
        return {k: _plain(v) for k, v in sorted(self.final_config_dict.items())}


def _own_files(model_class: type) -> list[str]:
    needs: set[str] = getattr(model_class, "needs", set())
    return [f"parts/{part}.yaml" for part, of in _PARTS.items() if of & needs] + [f"model/{model_class.__name__}.yaml"]


def is_label_aware(model_class: type) -> bool:
    """Whether a RecBole model trains on the labels.

    RecBole has no flag for it: its pairwise and sequence models take every row for a positive. A model that reads
    labels is pointwise and its loss asks the interaction for LABEL (DIN and DIEN: LABEL_FIELD).
    """
    losses = (getattr(c.__dict__.get("calculate_loss"), "__code__", None) for c in model_class.__mro__)
    reads_label = any({"LABEL", "LABEL_FIELD"} & set(code.co_names) for code in losses if code)
    return getattr(model_class, "input_type", None) == InputType.POINTWISE and reads_label


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
