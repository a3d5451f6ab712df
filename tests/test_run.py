"""End-to-end runs on the toy dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recbole_cora
from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.summary import summary
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
    """Whatever rows a model is trained on, it is scored on the dataset's rows, with the dataset's UAUC users."""
    result = recbole_cora.run(model=model, dataset="toy", options=SMALL)
    assert result["rows"] == {"train": 192, "valid": 24, "test": 24}
    assert 0 <= result["test"]["auc"] <= 1 and result["uauc_users"]["test"] > 0
    assert json.loads((Path(result["folder"]) / "result.json").read_text())["test"] == result["test"]


@pytest.mark.parametrize("encoder", ["MF", "LGCN", "SAS"])
def test_cora_runs_on_each_encoder_and_scores_alike_when_loaded(toy: Path, encoder: str) -> None:
    """The result has every documented key. Loading the checkpoint gives exactly the same scores."""
    result = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "cf_encoder": encoder})
    documented_keys = (
        "model dataset llm cf_encoder seed rows uauc_users valid test reference seconds trainable_parameters "
        "frozen_parameters peak_memory_mb versions config"
    )
    assert set(documented_keys.split()) <= set(result)
    assert set(result["reference"]) == {"cf_encoder", "llm_only"}
    again = recbole_cora.run(
        model="CoRA", dataset="toy", options={**TINY, "cf_encoder": encoder, "checkpoint": result["folder"]}
    )
    assert again["test"] == result["test"] and again["reference"] == result["reference"]


def test_an_encoder_of_other_data_is_refused(toy: Path) -> None:
    """`cf_checkpoint` accepts an earlier run's encoder, but only one of the same rows and vocabulary."""
    encoder_run = recbole_cora.run(model="MF", dataset="toy", options=SMALL)
    result = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "cf_checkpoint": encoder_run["folder"]})
    assert result["reference"]["cf_encoder"] == encoder_run["test"]
    inter = (toy / "toy.inter").read_text().replace("\t5\t", "\t4\t", 1).replace("u0\ti1\t2", "u0\ti1\t5")
    write_toy(toy.parent, "other", inter=inter.replace("u11\t", "u99\t"))
    with pytest.raises(CheckpointError, match="vocabulary"):
        recbole_cora.run(model="CoRA", dataset="other", options={**TINY, "cf_checkpoint": encoder_run["folder"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"weights_on": "question"},
        {"weights_on": "question", "prefix_cache_mb": 0, "llm_batch_tokens": 300},
        {"gradient_checkpointing": True, "gradient_accumulation": 2},
        {"device_map": "auto"},
        {"dtype": "bfloat16", "train_batch_size": "auto"},
    ],
    ids=lambda options: ", ".join(f"{key}={value}" for key, value in options.items()),
)
def test_cora_runs_in_every_way(toy: Path, options: dict[str, Any]) -> None:
    """CoRA trains with each of the engine's options, and has the same scores when loaded."""
    result = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, **options})
    again = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, **options, "checkpoint": result["folder"]})
    assert again["test"] == result["test"]
    assert result["llm_dtype"] == options.get("dtype", "float32")


@pytest.mark.slow
def test_ways_that_compute_the_same_train_the_same(toy: Path) -> None:
    """Recomputing activations, splitting batches and reading few tokens at once do not change the scores."""
    exact = {**TINY, "generator_dropout": 0.0, "cf_dropout": 0.0, "delta_dropout": 0.0}
    plain = recbole_cora.run(model="CoRA", dataset="toy", options=exact)["test"]["logloss"]
    for options in ({"gradient_checkpointing": True}, {"gradient_accumulation": 3}, {"llm_batch_tokens": 200}):
        other = recbole_cora.run(model="CoRA", dataset="toy", options={**exact, **options})["test"]["logloss"]
        assert abs(other - plain) < 1e-4


def test_a_model_is_used_in_the_mode_it_was_trained_in(toy: Path) -> None:
    """Weights trained on the question alone are refused for the whole prompt. An unknown mode is an error."""
    earlier_run = recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "weights_on": "question"})
    with pytest.raises(CheckpointError, match=r"weights_on='question' \(here 'prompt'\)"):
        recbole_cora.run(options={"checkpoint": earlier_run["folder"], "weights_on": "prompt", "show_progress": False})
    with pytest.raises(SettingError, match="did you mean 'question'"):
        recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "weights_on": "questions"})


def test_prompts_are_tokenised_once(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads the first one's tokens from the cache; with another template they are made anew."""
    recbole_cora.run(model="CoRA", dataset="toy", options=TINY)
    encoded_rows: list[int] = []
    encode_all = PromptEncoder.encode_all

    def counting(self: PromptEncoder, rows: Any, **options: Any) -> Any:
        encoded_rows.append(len(rows))
        return encode_all(self, rows, **options)

    monkeypatch.setattr(PromptEncoder, "encode_all", counting)
    recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "seed": 3})
    assert not encoded_rows
    recbole_cora.run(model="CoRA", dataset="toy", options={**TINY, "template": "books"})
    assert sum(encoded_rows) == 240


def test_the_end_of_a_run_may_leave_out_the_valid_rows(toy: Path) -> None:
    """Without `score_valid` the result and its summary have no valid metrics, and the test metrics are the same."""
    whole = recbole_cora.run(model="MF", dataset="toy", options=SMALL)
    short = recbole_cora.run(model="MF", dataset="toy", options={**SMALL, "score_valid": False})
    assert "valid" in whole and "valid" not in short
    assert short["test"] == whole["test"] and short["curve"] == whole["curve"]
    assert [line.split()[0] for line in summary(short).splitlines()[2:]] == ["test"]
