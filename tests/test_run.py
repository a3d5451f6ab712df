"""Runs from end to end on the toy dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recbole_cora
from recbole_cora.errors import CheckpointError
from tests.conftest import write_toy

SMALL: dict[str, Any] = {"epochs": 2, "show_progress": False, "seed": 3}
TINY: dict[str, Any] = {
    **SMALL, "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "steps_per_epoch": 3, "hidden": 32,
    "feed_forward": 32, "rank": 4, "learning_rate": 0.01, "warmup_steps": 1, "cf_config": {"epochs": 2}, "cf_folds": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "model", ["MF", "LGCN", "SAS", "BPR", "FM", "LightGCN", "SASRec", "DeepFM", "Pop", "ItemKNN", "Averages"]
)
def test_every_model_is_scored_on_the_same_rows(toy: Path, model: str) -> None:
    """Whatever a model is trained on, its rows and its UAUC users are the dataset's."""
    result = recbole_cora.run(model=model, dataset="toy", options=SMALL)
    assert result["rows"] == {"train": 192, "valid": 24, "test": 24}
    assert 0 <= result["test"]["auc"] <= 1 and result["uauc_users"]["test"] > 0
    assert json.loads((Path(result["folder"]) / "result.json").read_text())["test"] == result["test"]


@pytest.mark.parametrize("encoder", ["MF", "LGCN", "SAS"])
def test_cora_runs_on_each_encoder_and_scores_alike_when_loaded(toy: Path, encoder: str) -> None:
    """A run holds every promised key; its checkpoint, scored again, gives the very same scores."""
    result = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "cf_encoder": encoder})
    promised = (
        "model dataset llm cf_encoder seed rows uauc_users valid test reference seconds trainable_parameters "
        "frozen_parameters peak_memory_mb versions config"
    )
    assert set(promised.split()) <= set(result)
    assert set(result["reference"]) == {"cf_encoder", "llm_only"}
    again = recbole_cora.run(
        model="CoRA", dataset="toy", options={**TINY, "cf_encoder": encoder, "checkpoint": result["folder"]}
    )
    assert again["test"] == result["test"] and again["reference"] == result["reference"]


def test_an_encoder_of_other_data_is_refused(toy: Path) -> None:
    """`cf_checkpoint` takes an earlier run's encoder, and only one of the same rows and vocabulary."""
    trained = recbole_cora.run(model="MF", dataset="toy", options=SMALL)
    result = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "cf_checkpoint": trained["folder"]})
    assert result["reference"]["cf_encoder"] == trained["test"]
    inter = (toy / "toy.inter").read_text().replace("\t5\t", "\t4\t", 1).replace("u0\ti1\t2", "u0\ti1\t5")
    write_toy(toy.parent, "other", inter=inter.replace("u11\t", "u99\t"))
    with pytest.raises(CheckpointError, match="vocabulary"):
        recbole_cora.run(model="CoRA", dataset="other", options={**TINY, "cf_checkpoint": trained["folder"]})
