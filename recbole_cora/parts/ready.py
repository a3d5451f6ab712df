"""The frozen parts that a model's class `needs`, made once and cached by their content.

llm      the frozen LLM, and the prompt of every row
encoder  the frozen CF encoder
codes    the encoder's embeddings as binary codes in the prompts
lora     a new LoRA for the LLM
tallrec  a LoRA for the LLM that TALLRec has already trained
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from recbole_cora.cf.controls import CFEncoder
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import CheckpointError
from recbole_cora.files import content_key
from recbole_cora.llm.choice import with_llm
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.parts.encoder import history_length, ready_codes, ready_encoder
from recbole_cora.parts.laps import Laps
from recbole_cora.parts.stages import ready_stage, shared_settings, stage_config
from recbole_cora.prompts.rows import Features, RowPrompts
from recbole_cora.registry import model_class
from recbole_cora.settings.kinds import settings_of_group
from recbole_cora.settings.parts import LLM, LoRA
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.resolve import Settings
from recbole_cora.settings.restore import read_run
from recbole_cora.training.stage import Stage

if TYPE_CHECKING:
    from recbole_cora.llm.frozen import FrozenLLM

__all__ = ["Parts", "ready_parts"]


@dataclass
class Parts:
    """The frozen parts of a model, and what they add to its identity and to its result.

    A part that is not needed is None. Codes need the encoder, so a model that reads only codes has both.

    Attributes:
        needs: names of the parts that the model is built from.
        llm: the frozen LLM.
        prompts: every row's prompt in the tokens of that LLM.
        encoder: the frozen CF encoder.
        encoder_stage: the encoder as a model that can be scored by itself.
        history_length: number of liked items of a row's history that the encoder reads; None if it reads no history.
        codes: the encoder's embeddings as text for the prompts.
        make_lora: returns a LoRA for `llm`, new or with TALLRec's trained weights.
        identity: what a checkpoint of the model depends on, besides its data and its class.
        summary: entries of `result.json`.
        laps: wall-clock seconds by part.
    """

    needs: frozenset[str]
    llm: FrozenLLM | None = None
    prompts: RowPrompts | None = None
    encoder: CFEncoder | None = None
    encoder_stage: Stage | None = None
    history_length: int | None = None
    codes: Features | None = None
    make_lora: Callable[[], SharedLoRA] | None = None
    identity: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=lambda: {"llm": None, "cf_encoder": None})
    laps: Laps = field(default_factory=Laps)

    @property
    def arguments(self) -> dict[str, object]:
        """Keyword arguments of the model's class. Codes are not among them: they are written into the prompts."""
        arguments: dict[str, object] = {}
        if "llm" in self.needs:
            arguments |= {"llm": self.llm, "prompts": self.prompts}
        if "encoder" in self.needs:
            arguments["encoder"] = self.encoder
        if self.needs & {"lora", "tallrec"}:
            arguments["lora"] = self.make_lora
        return arguments


def ready_parts(config: CoraConfig, ratings: Ratings) -> Parts:
    """Return the parts that `config.model_class` needs: made now, or read from the cache or from an earlier run.

    Raises:
        SettingError, LLMError, CheckpointError: see the functions that make each part.
    """
    parts = Parts(config.settings.needs)
    needs, laps = parts.needs, parts.laps
    if "llm" in needs:
        _add_llm(parts, config, ratings)
        laps.end("llm")
    if needs & {"encoder", "codes"}:
        _add_encoder(parts, config, ratings)
        if "codes" in needs:
            _add_codes(parts, config, ratings)
        laps.end("cf_encoder")
    if needs & {"lora", "tallrec"}:
        _add_new_lora(parts, config)
    if "tallrec" in needs:
        _add_tallrec(parts, config, ratings)
        laps.end("lora")
    if "llm" in needs:  # last: the prompts may contain the codes
        _add_prompts(parts, config, ratings)
        laps.end("prompts")
    return parts


def _add_llm(parts: Parts, config: CoraConfig, ratings: Ratings) -> None:
    from recbole_cora.parts.llm import ready_llm, weights_on  # here: it imports transformers

    parts.llm = ready_llm(config, ratings)
    parts.identity |= {
        "weights_on": weights_on(config),
        "LLM": parts.llm.fingerprint(),
        "titles in the prompt": bool(config["show_titles"]),
    }
    parts.summary |= {"llm": config["llm"], "llm_dtype": parts.llm.dtype}


def _add_encoder(parts: Parts, config: CoraConfig, ratings: Ratings) -> None:
    encoder, parts.encoder_stage = ready_encoder(config, ratings)
    parts.encoder = encoder
    parts.history_length = history_length(parts.encoder_stage)
    # Controls can have the same tensors and still return different vectors.
    control = [] if config["cf_vectors"] == "own" else [config["cf_vectors"]]
    parts.identity["CF encoder"] = content_key(*map(_bytes, encoder.state_dict().values()), *control)
    parts.summary["cf_encoder"] = encoder.name


def _add_codes(parts: Parts, config: CoraConfig, ratings: Ratings) -> None:
    assert parts.encoder is not None
    identity = {"CF encoder": parts.identity["CF encoder"]}
    parts.codes = ready_codes(config, ratings, parts.encoder, identity, parts.history_length)


def _add_new_lora(parts: Parts, config: CoraConfig) -> None:
    assert parts.llm is not None
    llm = parts.llm.model
    targets = weight_targets(llm, config["lora_types"], config["llm_modules"])
    rank, alpha, dropout = config["lora_rank"], config["lora_alpha"], config["lora_dropout"]
    parts.make_lora = partial(SharedLoRA, llm, targets, rank, alpha, dropout)


def _add_tallrec(parts: Parts, config: CoraConfig, ratings: Ratings) -> None:
    """Replace the new LoRA by one with the weights that TALLRec has trained."""
    assert parts.make_lora is not None
    weights = _tallrec_weights(parts, config, ratings)
    parts.make_lora = partial(_trained_lora, parts.make_lora, weights)
    parts.identity["LoRA of stage 1"] = content_key(*map(_bytes, weights.values()))


def _add_prompts(parts: Parts, config: CoraConfig, ratings: Ratings) -> None:
    from recbole_cora.parts.llm import answer_probability, prompt_key, ready_prompts  # here: it imports transformers

    assert parts.llm is not None
    parts.prompts = ready_prompts(config, ratings, parts.llm, parts.codes)
    parts.identity["prompt"] = prompt_key(config, parts.llm)
    probability = answer_probability(parts.llm, parts.prompts, ratings.rows("test").tolist())
    parts.summary["answer_probability"] = round(probability, 4)


def _tallrec_weights(parts: Parts, config: CoraConfig, ratings: Ratings) -> dict[str, Tensor]:
    """Return the weights of TALLRec's LoRA for this LLM: trained now, from the cache, or from `lora_checkpoint`.

    Raises:
        CheckpointError: `lora_checkpoint` is a run of another model, LLM or dataset.
    """
    from recbole_cora.parts.llm import prompt_key, ready_prompts  # here: it imports transformers

    assert parts.llm is not None
    folder = Path(config["lora_checkpoint"]) if config["lora_checkpoint"] else None
    settings, *_ = with_llm(_tallrec_settings(config, folder))
    tallrec_config = CoraConfig(model_class("TALLRec"), config["dataset"], settings=settings)
    identity = {key: value for key, value in parts.identity.items() if key != "CF encoder"}
    identity |= {"titles in the prompt": True, "prompt": prompt_key(tallrec_config, parts.llm)}
    prompts = ready_prompts(tallrec_config, ratings, parts.llm)
    make = partial(tallrec_config.model_class, llm=parts.llm, prompts=prompts, lora=parts.make_lora)
    stage = ready_stage(
        tallrec_config, ratings, "lora", make=make, identity=identity, input_key=prompts.key, folder=folder
    )
    return {name: tensor.detach().clone() for name, tensor in stage.model.lora.state_dict().items()}


def _tallrec_settings(config: CoraConfig, folder: Path | None) -> Settings:
    """Return the settings of the TALLRec stage: those of the earlier run in `folder`, or new ones if it is None."""
    lora_options = {**_chosen_options(config, LoRA), **config["lora_config"]}
    if folder is None:
        options = {**_chosen_options(config, LLM), "show_titles": True, **lora_options}
        return stage_config(config, "TALLRec", options).settings
    run = read_run(folder)
    if run.model != "TALLRec":
        raise CheckpointError(f"--lora_checkpoint={folder} is a run of {run.model}; expected one of TALLRec")
    options = {**shared_settings(config, shaping=False), **lora_options}
    return run.settings_with(options, "lora_checkpoint", config["dataset"])


def _chosen_options(config: CoraConfig, group: type) -> dict[str, object]:
    """Return the settings of a group that the user set in a file or as an option."""
    return {key: value for key, value in config.settings.chosen.items() if key in settings_of_group(group)}


def _trained_lora(make_lora: Callable[[], SharedLoRA], weights: dict[str, Tensor]) -> SharedLoRA:
    lora = make_lora()
    lora.load_state_dict(weights)
    return lora


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
