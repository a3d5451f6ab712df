"""The frozen CF encoder of a run with its evidence and controls, and the binary codes of its embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from recbole.utils import ModelType

from recbole_cora.cf.controls import CFEncoder, ControlledEncoder
from recbole_cora.cf.encoder import FrozenEncoder
from recbole_cora.cf.evidence import evidence_of
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.models.binary_codes import code_text
from recbole_cora.parts.stages import ready_stage, shared_settings, stage_config
from recbole_cora.prompts.rows import Features
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.restore import read_run
from recbole_cora.training.stage import Stage


def ready_encoder(config: CoraConfig, ratings: Ratings) -> tuple[CFEncoder, Stage]:
    """Return the frozen CF encoder, and its stage: trained now, from the cache, or from `cf_checkpoint`.

    Raises:
        CheckpointError: `cf_checkpoint` has another split or vocabulary, or its settings contradict the user's.
    """
    name = config["cf_encoder"]
    folder = Path(config["cf_checkpoint"]) if config["cf_checkpoint"] else None
    stage = ready_stage(_encoder_config(config, name, folder), ratings, "encoder", folder=folder)
    evidence = torch.from_numpy(evidence_of(config, stage))
    encoder = FrozenEncoder(stage.model, name, evidence, stage.rows("train"))
    control = config["cf_vectors"]
    if control == "own":
        return encoder, stage
    return ControlledEncoder(encoder, control, stage.all_rows(), ratings, config["seed"]), stage


def _encoder_config(config: CoraConfig, name: str, folder: Path | None) -> CoraConfig:
    """Return the config of the encoder's stage: that of the earlier run in `folder`, or a new one if it is None."""
    if folder is None:
        presets = config["cf_presets"].get(name, {})
        return stage_config(config, name, {**presets, **config["cf_config"]})
    options = {**shared_settings(config, shaping=False), **config["cf_config"]}
    settings = read_run(folder).settings_with(options, "cf_checkpoint", config["dataset"])
    return CoraConfig(model_class(name), config["dataset"], settings=settings)


def history_length(encoder: Stage) -> int | None:
    """Return how many liked items of a row's history the encoder reads; None if it reads no history."""
    return encoder.config["MAX_ITEM_LIST_LENGTH"] if encoder.config["MODEL_TYPE"] == ModelType.SEQUENTIAL else None


def ready_codes(
    config: CoraConfig, ratings: Ratings, encoder: CFEncoder, identity: dict[str, object], length: int | None
) -> Features:
    """Return the binary codes of each row's user and item as text. They are learned in a stage of their own.

    Args:
        identity: what a checkpoint of the codes depends on, besides its data and its class.
        length: the encoder's `history_length`.
    """
    codes_config = stage_config(config, "BinaryCodes", {"bits": config["bits"], **config["codes_config"]})
    make = partial(codes_config.model_class, encoder=encoder)
    stage = ready_stage(codes_config, ratings, "codes", make=make, identity=identity, history_length=length)
    user_texts, item_texts = [""] * len(ratings), [""] * len(ratings)
    stage.model.eval()
    with torch.no_grad():
        for split in SPLITS:
            for interaction in stage.rows(split):
                user_codes, item_codes = stage.model.codes(interaction)  # [N, bits] each
                for n, row in enumerate(interaction[ROW].tolist()):
                    user_texts[row] = code_text(user_codes[n], config["code_format"])
                    item_texts[row] = code_text(item_codes[n], config["code_format"])
    return Features(user_texts, item_texts)
