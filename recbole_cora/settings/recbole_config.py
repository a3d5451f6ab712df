"""RecBole's Config, made from our frozen settings. It reads no files and evaluates nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType

from recbole_cora import processes
from recbole_cora.errors import SettingError
from recbole_cora.metrics import scores_are_logits
from recbole_cora.settings.resolve import Settings, resolve


class CoraConfig(Config):
    """The settings in the form that RecBole's classes expect.

    Args:
        model: the model's class, RecBole's own or ours.
        dataset: the dataset's name; its files are in `<data_path>/<dataset>/`.
        options: settings that override the files.
        config_files: YAML files; later files win.
        settings: resolved settings, used instead of `options` and `config_files`.

    Attributes:
        settings: the resolved settings. This object also holds values that RecBole derives, such as the device.
        allowed_keys: every key that may be set for this model.
        label_aware: whether the model trains on the labels.
        scores_are_logits: whether `predict` returns logits rather than probabilities.
        batches_may_shrink: whether a batch is split into smaller parts if memory runs out.

    Raises:
        SettingError: a key is unknown, or a value is out of range.
    """

    def __init__(
        self,
        model: type,
        dataset: str,
        options: Mapping[str, Any] | None = None,
        config_files: Sequence[str] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or resolve(model.__name__, dataset, options, config_files)
        self.allowed_keys = set(self.settings.declared)
        self.label_aware = is_label_aware(model)
        self.scores_are_logits = scores_are_logits(model)
        self.batches_may_shrink = self.settings["train_batch_size"] == "auto"
        self._is_copy = False
        super().__init__(model=model, dataset=dataset)

    # -- RecBole's steps of building a Config ------------------------------------------------------------------------

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        self.internal_config_dict = dict(self.settings) | {"MODEL_TYPE": model_class.type}  # type: ignore[attr-defined]
        if self.batches_may_shrink:
            self.internal_config_dict["train_batch_size"] = self.settings.declared["train_batch_size"].default
        # RecBole samples negatives by default. A model that reads labels or predicts among all items needs none.
        negatives = self.settings["train_neg_sample_args"]
        if negatives == self.settings.declared["train_neg_sample_args"].default and (
            self.label_aware or self._uses_cross_entropy(model_class)
        ):
            self.internal_config_dict["train_neg_sample_args"] = None

    def _uses_cross_entropy(self, model_class: type) -> bool:
        return model_class.type == ModelType.SEQUENTIAL and self.settings.get("loss_type") == "CE"  # type: ignore[attr-defined]

    def _set_default_parameters(self) -> None:
        try:
            super()._set_default_parameters()
        except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
            raise SettingError(f"RecBole refuses these settings: {error}") from None
        assert self.final_config_dict["eval_type"] == EvaluatorType.VALUE

    def _init_device(self) -> None:
        """Choose the device. Unlike RecBole, keep CUDA_VISIBLE_DEVICES, with which ray and torchrun place processes."""
        values = self.final_config_dict
        use_gpu = bool(values["use_gpu"]) and torch.cuda.is_available()
        values.update(single_spec=True, local_rank=0, device=torch.device("cuda" if use_gpu else "cpu"))

    # -- use ---------------------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: Any) -> None:
        """Let RecBole's transforms add names of fields. Raises TypeError for a setting, which is read-only."""
        if key in self.settings and not self._is_copy:
            raise TypeError(f"setting '{key}' cannot be changed: settings are frozen once resolved")
        super().__setitem__(key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> CoraConfig:
        """Return a writable copy: KD_DAGFM changes settings in a copy to build its student."""
        clone: CoraConfig = object.__new__(CoraConfig)
        clone.__dict__.update(self.__dict__)
        clone.final_config_dict = copy.deepcopy(self.final_config_dict, memo)
        clone._is_copy = True
        return clone

    @property
    def show_progress(self) -> bool:
        """True if this process shows progress bars. Only the main process does, unless they are switched off."""
        return bool(self["show_progress"]) and processes.is_main()

    def content(self) -> dict[str, Any]:
        """Return the settings that shape weights or scores, as JSON-able values."""
        return self.settings.content()

    def derived(self) -> dict[str, Any]:
        """Return the values that RecBole derived from the settings, such as the device, as JSON-able values."""
        return {k: _plain(v) for k, v in sorted(self.final_config_dict.items()) if k not in self.settings}


def is_label_aware(model_class: type) -> bool:
    """Return whether a model trains on the labels.

    RecBole has no flag for this; its pairwise and sequential models treat every row as positive. A model that reads
    labels is pointwise, and its loss reads LABEL (DIN and DIEN: LABEL_FIELD) from the interaction.
    """
    losses = (getattr(c.__dict__.get("calculate_loss"), "__code__", None) for c in model_class.__mro__)
    reads_label = any({"LABEL", "LABEL_FIELD"} & set(code.co_names) for code in losses if code)
    return getattr(model_class, "input_type", None) == InputType.POINTWISE and reads_label


def _plain(value: object) -> object:
    """Return a JSON-able value: anything but containers, numbers, texts and None becomes text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
