"""The frozen CF encoder of a run, with its evidence and controls, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recbole.utils import ModelType

from recbole_cora.cf import PAIR_EMBEDDINGS, FrozenEncoder
from recbole_cora.controls import CF_VECTORS, CFEncoder, ControlledEncoder
from recbole_cora.errors import SettingError, nearest
from recbole_cora.evidence import evidence_of
from recbole_cora.models.binary_codes import FORMATS, code_text
from recbole_cora.parts.stages import ready_stage, settings_of, stage_config
from recbole_cora.protocol import SPLITS
from recbole_cora.ratings import Ratings
from recbole_cora.row_prompts import Features
from recbole_cora.rows_dataset import ROW
from recbole_cora.settings import CoraConfig
from recbole_cora.stage import Stage


def ready_encoder(config: CoraConfig, ratings: Ratings) -> tuple[CFEncoder, Stage]:
    """The frozen CF encoder that the settings ask for: trained now, from the cache, or from `cf_checkpoint`.

    Raises:
        SettingError: an encoder that PAIR_EMBEDDINGS does not know, an unknown setting of it, or unknown evidence.
        CheckpointError: a `cf_checkpoint` of another model, split or vocabulary.
    """
    name = config.require("cf_encoder")
    control = config["cf_vectors"]
    if control not in CF_VECTORS:
        raise SettingError(
            f"cf_vectors is '{control}'{nearest(str(control), CF_VECTORS)}; expected one of {CF_VECTORS}"
        )
    options = {**(config["cf_presets"] or {}).get(name, {}), **(config["cf_config"] or {})}
    folder = Path(config["cf_checkpoint"]) if config["cf_checkpoint"] else None
    if folder:
        name, options = settings_of(folder)
    if name not in PAIR_EMBEDDINGS:
        known = ", ".join(PAIR_EMBEDDINGS)
        raise SettingError(f"cf_encoder is '{name}'{nearest(str(name), PAIR_EMBEDDINGS)}; expected one of {known}")
    stage = ready_stage(stage_config(config, name, options), ratings, "encoder", folder=folder)
    evidence = torch.from_numpy(evidence_of(config, stage))
    encoder = FrozenEncoder(stage.model, name, evidence, stage.rows("train"))
    # Rows get what the encoder reads: the liked history, as long as the encoder's, for a sequential one.
    config["attach_histories"] = stage.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    config["MAX_ITEM_LIST_LENGTH"] = stage.config["MAX_ITEM_LIST_LENGTH"]
    if control != "own":
        return ControlledEncoder(encoder, control, stage.all_rows(), ratings, config["seed"]), stage
    return encoder, stage


def ready_codes(config: CoraConfig, ratings: Ratings, encoder: CFEncoder, also: dict[str, Any]) -> Features:
    """Each row's user and item as binary codes in text, from a stage of their own."""
    form = config["code_format"]
    if form not in FORMATS:
        raise SettingError(f"code_format is '{form}'{nearest(str(form), FORMATS)}; expected one of {FORMATS}")
    keys = ("attach_histories", "MAX_ITEM_LIST_LENGTH")
    options = {"bits": config["bits"], **{key: config[key] for key in keys}, **(config["codes_config"] or {})}
    own = stage_config(config, "BinaryCodes", options)
    stage = ready_stage(own, ratings, "codes", make=lambda c, d: own.model_class(c, d, encoder=encoder), also=also)
    texts = [[""] * len(ratings), [""] * len(ratings)]
    stage.model.eval()
    with torch.no_grad():
        for split in SPLITS:
            for interaction in stage.rows(split):
                rows = interaction[ROW].tolist()
                for side, codes in zip(texts, stage.model.codes(interaction), strict=True):
                    for row, code in zip(rows, codes, strict=True):
                        side[row] = code_text(code, form)
    return Features(*texts)
