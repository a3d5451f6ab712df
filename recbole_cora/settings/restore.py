"""The settings of an earlier run, restored from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.settings.kinds import SettingValues
from recbole_cora.settings.parts import ENCODERS
from recbole_cora.settings.reading import read_yaml
from recbole_cora.settings.resolve import RUN_KEYS, Settings, resolve

#: Files with a run's settings, in the order they are tried. A run writes the first at its end, the second at its start.
_SETTINGS_FILES = ("result.json", "run.json")
#: Keys that version 0.1.0 saved among the settings, though they are not settings.
_DERIVED_KEYS = (
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "single_spec", "local_rank", "valid_neg_sample_args",
    "test_neg_sample_args", "scores_are_logits", "batches_may_shrink", "attach_histories",
)  # fmt: skip
#: Settings that may differ from the earlier run's, because files may have moved. A checkpoint's identity detects files
#: with other content.
_LOCATIONS = ("llm", "cf_checkpoint", "lora_checkpoint")


@dataclass(frozen=True)
class SavedRun:
    """An earlier run, as its folder describes it: its model, its dataset, and all settings that shape its scores."""

    folder: Path
    model: str
    dataset: str
    settings: SettingValues

    def settings_with(self, options: SettingValues, option: str, dataset: str | None = None) -> Settings:
        """Return the earlier run's settings with the current run's `options`, which must not contradict them.

        Args:
            option: name of the option that gave the folder, for the message.
            dataset: the current run's dataset, if its name differs.

        Raises:
            CheckpointError: an option contradicts a setting of the earlier run, or that run has a setting that does not
                exist here.
        """
        current = resolve(self.model, dataset or self.dataset, options)
        saved_values = {
            key: value
            for key, value in self.settings.items()
            if key not in current.declared or current.shapes_results(key)
        }
        try:
            earlier = resolve(self.model, current.dataset, saved_values)
            settings = resolve(self.model, current.dataset, {**saved_values, **current.chosen})
        except SettingError as error:
            raise CheckpointError(f"the settings of {self.folder} cannot be used here: {error}") from None
        conflicts = [
            f"{key}={earlier[key]!r} (here {settings[key]!r})"
            for key in current.chosen
            if current.shapes_results(key) and key not in _LOCATIONS and settings[key] != earlier[key]
        ]
        if conflicts:
            raise CheckpointError(
                f"--{option}={self.folder} was trained with {', '.join(conflicts)}; leave these options out, or train "
                "again"
            )
        return settings


def read_run(folder: Path) -> SavedRun:
    """Read an earlier run's model, dataset and settings from its folder.

    Raises:
        CheckpointError: this is not the folder of a run, or its files are damaged.
    """
    for name in _SETTINGS_FILES:
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = {**content["config"], **content.get("recbole_config", {})} if "config" in content else content
            return SavedRun(folder, str(content["model"]), str(content["dataset"]), _without_derived(settings))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / name} ({error.strerror}); give the folder of a run") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{folder / name} was not written by a run of recbole-cora, or is damaged") from None
    raise CheckpointError(f"{folder} has no {' or '.join(_SETTINGS_FILES)}; expected the folder of a run")


def resolve_run(
    model: str | None, dataset: str | None, options: SettingValues, config_files: Sequence[str] = ()
) -> Settings:
    """Return the settings of a run. With the option `checkpoint`, they come from that earlier run.

    Raises:
        SettingError: names, keys or values are wrong; one line names them all.
        CheckpointError: see `SavedRun.settings_with`; or `cf_checkpoint` is not a run of an encoder, or is a run of
            another encoder than `cf_encoder`.
    """
    contents = [*(read_yaml(Path(file)) for file in config_files), options]
    options = {key: value for content in contents for key, value in content.items()}
    model, dataset = model or options.get("model"), dataset or options.get("dataset")
    options = {key: value for key, value in options.items() if key not in RUN_KEYS}
    if options.get("checkpoint"):
        run = read_run(Path(str(options["checkpoint"])))
        if model not in (None, run.model):
            raise CheckpointError(f"--checkpoint={run.folder} is a run of {run.model}, but --model is {model!r}")
        return run.settings_with(options, "checkpoint", None if dataset is None else str(dataset))
    if not model or not dataset:
        raise SettingError("a run needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    return _with_encoder(resolve(model, dataset, options))


def _with_encoder(settings: Settings) -> Settings:
    """Return `settings` with the model of the run in `cf_checkpoint`, if that is set, as `cf_encoder`."""
    if not settings.get("cf_checkpoint"):
        return settings
    run = read_run(Path(settings["cf_checkpoint"]))
    if run.model not in ENCODERS:
        raise CheckpointError(
            f"--cf_checkpoint={run.folder} is a run of {run.model}; expected one of {', '.join(ENCODERS)}"
        )
    if "cf_encoder" in settings.chosen and settings["cf_encoder"] != run.model:
        raise CheckpointError(
            f"--cf_checkpoint={run.folder} is a run of {run.model}, but cf_encoder is {settings['cf_encoder']}"
        )
    return settings.with_values({"cf_encoder": run.model})


def _without_derived(content: SettingValues) -> dict[str, Any]:
    """Return the settings in a saved file. Version 0.1.0 also saved values that RecBole derives; they are dropped."""
    settings = {key: value for key, value in content.items() if key not in RUN_KEYS}
    if "MODEL_TYPE" in settings:  # a file of version 0.1.0
        settings = {key: value for key, value in settings.items() if key not in _DERIVED_KEYS}
        if (settings.get("train_neg_sample_args") or {}).get("distribution") == "none":
            settings["train_neg_sample_args"] = None
    return settings
