"""The frozen CF encoder of a run, with its evidence and controls, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    """The frozen CF encoder that the settings ask for: trained now, from the cache, or from `cf_checkpoint`.

    Raises:
        CheckpointError: a `cf_checkpoint` of another split or vocabulary, or with other settings than chosen here.
    """
    name = config["cf_encoder"]
    presets, options = config["cf_presets"].get(name, {}), config["cf_config"]
    folder = Path(config["cf_checkpoint"]) if config["cf_checkpoint"] else None
    if folder:
        options = {**shared_settings(config, shaping=False), **options}
        settings = read_run(folder).settings_with(options, "cf_checkpoint", config["dataset"])
        encoder_config = CoraConfig(model_class(name), config["dataset"], settings=settings)
    else:
        encoder_config = stage_config(config, name, {**presets, **options})
    stage = ready_stage(encoder_config, ratings, "encoder", folder=folder)
    evidence = torch.from_numpy(evidence_of(config, stage))
    encoder = FrozenEncoder(stage.model, name, evidence, stage.rows("train"))
    control = config["cf_vectors"]
    if control != "own":
        return ControlledEncoder(encoder, control, stage.all_rows(), ratings, config["seed"]), stage
    return encoder, stage


def history_length(encoder: Stage) -> int | None:
    """Return how many liked items of a row's history the encoder reads; None where it reads no history."""
    return encoder.config["MAX_ITEM_LIST_LENGTH"] if encoder.config["MODEL_TYPE"] == ModelType.SEQUENTIAL else None


def ready_codes(
    config: CoraConfig, ratings: Ratings, encoder: CFEncoder, also: dict[str, Any], length: int | None
) -> Features:
    """Return each row's user and item as binary codes in text, from a stage of their own.

    Args:
        also: what the codes are for, beyond data and model.
        length: see `history_length`.
    """
    codes_config = stage_config(config, "BinaryCodes", {"bits": config["bits"], **config["codes_config"]})
    stage = ready_stage(
        codes_config, ratings, "codes", make=lambda c, d: codes_config.model_class(c, d, encoder=encoder), also=also,
        history_length=length,
    )  # fmt: skip
    texts = [[""] * len(ratings), [""] * len(ratings)]
    stage.model.eval()
    with torch.no_grad():
        for split in SPLITS:
            for interaction in stage.rows(split):
                rows = interaction[ROW].tolist()
                for side, codes in zip(texts, stage.model.codes(interaction), strict=True):
                    for row, code in zip(rows, codes, strict=True):
                        side[row] = code_text(code, config["code_format"])
    return Features(*texts)
