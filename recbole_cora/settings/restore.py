"""The settings of an earlier run, from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.settings.parts import ENCODERS
from recbole_cora.settings.reading import read_yaml
from recbole_cora.settings.resolve import RUN_KEYS, Settings, resolve

#: Files of a run that hold its settings: written at its end, and at its beginning.
_FILES = ("result.json", "run.json")
#: Among the settings of version 0.1.0, what was none.
_DERIVED = (
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "single_spec", "local_rank", "valid_neg_sample_args",
    "test_neg_sample_args", "scores_are_logits", "batches_may_shrink", "attach_histories",
)  # fmt: skip
#: Settings that say where something lies. It may have moved: a checkpoint's identity tells whether it is the same.
_PLACES = ("llm", "cf_checkpoint", "lora_checkpoint")


@dataclass(frozen=True)
class SavedRun:
    """What a run's folder says of it: the model, the dataset, and every setting that shapes its scores."""

    folder: Path
    model: str
    dataset: str
    settings: Mapping[str, Any]

    def resolved(self, options: Mapping[str, Any], option: str, dataset: str | None = None) -> Settings:
        """Return the run's settings, with `options` of the present run that do not contradict them.

        Args:
            option: the setting that names the folder, for the message.
            dataset: the present run's, if it has another name.

        Raises:
            CheckpointError: an option contradicts the run's setting, or the run has a setting that does not exist here.
        """
        present = resolve(self.model, dataset or self.dataset, options)
        shaping = {
            key: value
            for key, value in self.settings.items()
            if key not in present.declared or present.shapes_results(key)
        }
        try:
            saved = resolve(self.model, present.dataset, shaping)
            settings = resolve(self.model, present.dataset, {**shaping, **present.chosen})
        except SettingError as error:
            raise CheckpointError(f"the settings of {self.folder} cannot be used here: {error}") from None
        against = [
            f"{key}={saved[key]!r} (here {settings[key]!r})"
            for key in present.chosen
            if present.shapes_results(key) and key not in _PLACES and settings[key] != saved[key]
        ]
        if against:
            raise CheckpointError(
                f"--{option}={self.folder} was trained with {', '.join(against)}; leave these options out, or train "
                "again"
            )
        return settings


def read_run(folder: Path) -> SavedRun:
    """Return what a run's folder says of it.

    Raises:
        CheckpointError: it is no run's folder, or its files are damaged.
    """
    for name in _FILES:
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
    raise CheckpointError(f"{folder} has no {' or '.join(_FILES)}; expected the folder of a run")


def resolve_run(
    model: str | None, dataset: str | None, options: Mapping[str, Any], config_files: Sequence[str] = ()
) -> Settings:
    """Return the settings of a run: `resolve`d, or with `checkpoint`, those of that run.

    Raises:
        SettingError: everything that is wrong, in one line.
        CheckpointError: see `SavedRun.resolved`; or `cf_checkpoint` is no run of an encoder, or of another than chosen.
    """
    files = [read_yaml(Path(file)) for file in config_files]
    options = {key: value for content in [*files, options] for key, value in content.items()}
    model, dataset = model or options.get("model"), dataset or options.get("dataset")
    options = {key: value for key, value in options.items() if key not in RUN_KEYS}
    if options.get("checkpoint"):
        saved = read_run(Path(str(options["checkpoint"])))
        if model not in (None, saved.model):
            raise CheckpointError(f"--checkpoint={saved.folder} is a run of {saved.model}, --model is {model!r}")
        return saved.resolved(options, "checkpoint", None if dataset is None else str(dataset))
    if not model or not dataset:
        raise SettingError("a run needs --model= and --dataset=, for example --model=CoRA --dataset=ml-100k")
    return _with_encoder(resolve(model, dataset, options))


def _with_encoder(settings: Settings) -> Settings:
    """`settings`, whose `cf_encoder` is the model of the run that `cf_checkpoint` names, if it names one."""
    if not settings.get("cf_checkpoint"):
        return settings
    saved = read_run(Path(settings["cf_checkpoint"]))
    if saved.model not in ENCODERS:
        raise CheckpointError(
            f"--cf_checkpoint={saved.folder} is a run of {saved.model}; expected one of {', '.join(ENCODERS)}"
        )
    if "cf_encoder" in settings.chosen and settings["cf_encoder"] != saved.model:
        raise CheckpointError(
            f"--cf_checkpoint={saved.folder} is a run of {saved.model}, cf_encoder is {settings['cf_encoder']}"
        )
    return settings.with_values({"cf_encoder": saved.model})


def _without_derived(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a result.json of version 0.1.0, which had RecBole's derived values among them."""
    chosen = {key: value for key, value in settings.items() if key not in RUN_KEYS}
    if "MODEL_TYPE" in chosen:
        chosen = {key: value for key, value in chosen.items() if key not in _DERIVED}
        if (chosen.get("train_neg_sample_args") or {}).get("distribution") == "none":
            chosen["train_neg_sample_args"] = None
    return chosen
