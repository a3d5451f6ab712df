"""The frozen parts of a run, made ready once and kept by content, for whatever a model's class `needs`.

llm      the frozen LLM, and the rows' prompts
encoder  the frozen CF encoder
codes    its embeddings as binary codes, in the prompts
lora     a LoRA for that LLM, new
tallrec  a LoRA for that LLM, trained before by TALLRec
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import CheckpointError
from recbole_cora.files import content_key
from recbole_cora.llm.choice import with_llm
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.parts.encoder import history_length, ready_codes, ready_encoder
from recbole_cora.parts.llm import ready_llm, ready_prompts, weights_on
from recbole_cora.parts.stages import ready_stage, shared_settings, stage_config
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.registry import model_class
from recbole_cora.settings.kinds import settings_of_group
from recbole_cora.settings.parts import LLM, LoRA
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.restore import read_run
from recbole_cora.training.stage import Stage

__all__ = ["Parts", "ready_parts"]

log = logging.getLogger()


@dataclass
class Parts:
    """What a model is given, and what is told of it.

    Attributes:
        given: arguments of the model's class, by name.
        identity: what a checkpoint of the model is for, beyond data and model.
        told: entries of `result.json`.
        seconds: wall-clock seconds by part.
        encoder_stage: the encoder as a model of its own.
        history_length: liked items that the encoder reads of each row's history; None: it reads none.
    """

    given: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=lambda: {"llm": None, "cf_encoder": None})
    seconds: dict[str, float] = field(default_factory=dict)
    encoder_stage: Stage | None = None
    history_length: int | None = None

    @property
    def prompts(self) -> RowPrompts | None:
        """The model's, if it reads any."""
        return self.given.get("prompts")


def ready_parts(config: CoraConfig, ratings: Ratings) -> Parts:
    """Make ready what `config.model_class` needs; nothing, where it names no needs.

    Raises:
        SettingError, LLMError, CheckpointError: see the functions of each part.
    """
    needs = config.settings.needs
    parts, lap = Parts(), perf_counter()
    codes = None
    if "llm" in needs:
        parts.given["llm"] = llm = ready_llm(config, ratings)
        parts.identity |= {"weights_on": weights_on(config), "LLM": llm.fingerprint()}
        parts.identity["titles in the prompt"] = bool(config["show_titles"])
        parts.told |= {"llm": config["llm"], "llm_dtype": llm.dtype}
        parts.seconds["llm"], lap = perf_counter() - lap, perf_counter()
    if needs & {"encoder", "codes"}:
        encoder, parts.encoder_stage = ready_encoder(config, ratings)
        parts.history_length = history_length(parts.encoder_stage)
        # Controls differ in what they answer, not in their tensors.
        control = [] if config["cf_vectors"] == "own" else [config["cf_vectors"]]
        of_encoder = {"CF encoder": content_key(*map(_bytes, encoder.state_dict().values()), *control)}
        parts.identity |= of_encoder
        parts.told["cf_encoder"] = encoder.name
        if "encoder" in needs:
            parts.given["encoder"] = encoder
        if "codes" in needs:
            codes = ready_codes(config, ratings, encoder, of_encoder, parts.history_length)
        parts.seconds["cf_encoder"], lap = perf_counter() - lap, perf_counter()
    if needs & {"lora", "tallrec"}:
        targets = weight_targets(llm.model, config["lora_types"], config["llm_modules"])
        new = partial(SharedLoRA, llm.model, targets, *(config[f"lora_{k}"] for k in ("rank", "alpha", "dropout")))
        parts.given["lora"] = new
    if "tallrec" in needs:
        state = _tallrec_state(config, ratings, parts)
        parts.given["lora"] = lambda: _loaded(new(), state)
        parts.identity["LoRA of stage 1"] = content_key(*map(_bytes, state.values()))
        parts.seconds["lora"], lap = perf_counter() - lap, perf_counter()
    if "llm" in needs:
        parts.given["prompts"] = ready_prompts(config, ratings, llm, codes)
        parts.seconds["prompts"] = perf_counter() - lap
    return parts


def _tallrec_state(config: CoraConfig, ratings: Ratings, parts: Parts) -> dict[str, Tensor]:
    """The LoRA of a TALLRec run on this LLM: trained now, from the cache, or from `lora_checkpoint`.

    Raises:
        CheckpointError: a `lora_checkpoint` of another model, LLM or dataset.
    """
    llm = parts.given["llm"]
    folder = Path(config["lora_checkpoint"]) if config["lora_checkpoint"] else None
    if folder:
        saved = read_run(folder)
        if saved.model != "TALLRec":
            raise CheckpointError(f"--lora_checkpoint={folder} is a run of {saved.model}; expected one of TALLRec")
        options = {**shared_settings(config, shaping=False), **_chosen(config, LoRA), **config["lora_config"]}
        settings = saved.settings_with(options, "lora_checkpoint", config["dataset"])
    else:
        options = {**_chosen(config, LLM), **_chosen(config, LoRA), "show_titles": True, **config["lora_config"]}
        settings = stage_config(config, "TALLRec", options).settings
    settings, *_ = with_llm(settings)
    tallrec_config = CoraConfig(model_class("TALLRec"), config["dataset"], settings=settings)
    also = {**parts.identity, "titles in the prompt": True}
    also.pop("CF encoder", None)
    prompts = ready_prompts(tallrec_config, ratings, llm)
    make = partial(tallrec_config.model_class, llm=llm, prompts=prompts, lora=parts.given["lora"])
    stage = ready_stage(tallrec_config, ratings, "lora", make=make, also=also, reads=prompts.key, folder=folder)
    return {name: tensor.detach().clone() for name, tensor in stage.model.lora.state_dict().items()}


def _chosen(config: CoraConfig, group: type) -> dict[str, Any]:
    """What the user chose of a group of settings."""
    return {key: value for key, value in config.settings.chosen.items() if key in settings_of_group(group)}


def _loaded(lora: SharedLoRA, state: dict[str, Tensor]) -> SharedLoRA:
    lora.load_state_dict(state)
    return lora


def _bytes(tensor: Any) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
