"""Laws of restored settings: the folder of a run is all that is needed to score its model again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recbole_cora
from recbole_cora import cli
from recbole_cora.errors import CheckpointError
from recbole_cora.settings.resolve import declared_settings
from recbole_cora.settings.restore import read_run

COMMON: dict[str, Any] = {"show_progress": False, "save_scores": True, "references": False, "seed": 5}
LLM: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 64, "tiny_layers": 1, "steps_per_epoch": 2, "epochs": 1,
    "answer_score": "yes", "template": "books", "history_items": 3, "show_titles": True, "dtype": "bfloat16",
    "title_field": "class", "train_batch_size": 4,
}  # fmt: skip
GENERATOR: dict[str, Any] = {
    "heads": 2, "blocks": 1, "hidden": 32, "feed_forward": 16, "queries": 2, "rank": 3, "alpha_over_rank": 4.0,
    "weight_types": "qv", "generator_dropout": 0.2, "delta_dropout": 0.1, "weights_on": "question",
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "cf_encoder": "SAS", "cf_config": {"epochs": 1, "n_heads": 1, "hidden_act": "relu", "hidden_size": 16},
    "cf_evidence": ["averages", "taste"], "cf_folds": 2, "cf_dropout": 0.2,
}  # fmt: skip
LORA: dict[str, Any] = {"lora_rank": 3, "lora_alpha": 5.0, "lora_types": "ko"}
STAGES: dict[str, Any] = {"lora_config": {"epochs": 1, "steps_per_epoch": 1}}
RUNS: dict[str, dict[str, Any]] = {
    "CoRA": {**LLM, **GENERATOR, **ENCODER},
    "CoLLM": {**LLM, **ENCODER, **LORA, **STAGES},
    "BinLLM": {**LLM, **ENCODER, **LORA, **STAGES, "bits": 8, "code_format": "bits", "codes_config": {"epochs": 1}},
    "TALLRec": {**LLM, **LORA},
    "ICL": LLM,
    "LateFusion": {**LLM, **ENCODER, "cf_evidence": ["score", "taste"], "fusion_rows": 40},
    "MF": {"epochs": 1, "embedding_size": 8, "bias": False, "init_std": 0.3},
    "LGCN": {"epochs": 1, "embedding_size": 8, "n_layers": 3},
    "LightGCN": {"epochs": 1, "embedding_size": 8, "n_layers": 1},
    "SAS": {
        "epochs": 1, "n_layers": 1, "n_heads": 4, "hidden_size": 16, "inner_size": 8, "hidden_act": "tanh",
        "layer_norm_eps": 0.1, "MAX_ITEM_LIST_LENGTH": 3,
    },
    "SASRec": {"epochs": 1, "n_layers": 1, "n_heads": 4, "hidden_act": "relu", "layer_norm_eps": 0.1},
    "HistoryFeatures": {"history_items": 2, "folds": 3, "seed": 9, "strength": 0.1},
    "Averages": {"pseudo_rows": 1.0},
}  # fmt: skip


def run(model: str | None = None, **options: Any) -> dict[str, Any]:
    return recbole_cora.run(model, None if model is None else "toy", {**COMMON, **options})


def scores(result: dict[str, Any]) -> pd.DataFrame:
    return pd.read_csv(Path(result["folder"]) / "scores.test.csv", dtype=str)


@pytest.mark.slow
@pytest.mark.parametrize("model", RUNS)
def test_a_checkpoint_needs_no_option_again(toy: Path, model: str) -> None:
    """The run's folder alone gives the same scores, even with non-default values for the keys that shape the model."""
    options = RUNS[model]
    declared = declared_settings(model, "toy")
    assert all(value != declared[key].default for key, value in options.items() if key not in ("seed", "show_titles"))
    first = run(model, **options)
    again = recbole_cora.run(options={"checkpoint": first["folder"], "save_scores": True, "show_progress": False})
    pd.testing.assert_frame_equal(scores(again), scores(first))
    assert again["test"] == first["test"] and again["model"] == model


@pytest.mark.parametrize("encoder", ["SASRec", "BPR"])
def test_a_trained_encoder_keeps_its_settings(toy: Path, encoder: str) -> None:
    """A run that is used as an encoder keeps the settings that it was trained with."""
    shape = {"hidden_act": "relu", "n_layers": 1} if encoder == "SASRec" else {"embedding_size": 24}
    encoder_run = run(encoder, epochs=2, **shape)
    small = {**LLM, **GENERATOR, "title_field": "title", "references": True, "cf_checkpoint": encoder_run["folder"]}
    result = run("CoRA", **small)
    assert result["reference"]["cf_encoder"]["auc"] == encoder_run["test"]["auc"] and result["cf_encoder"] == encoder
    assert run(checkpoint=result["folder"])["test"] == result["test"]
    with pytest.raises(CheckpointError, match=rf"is a run of {encoder}, but cf_encoder is MF"):
        run("CoRA", **small, cf_encoder="MF")
    key, value = ("n_layers", 2) if encoder == "SASRec" else ("embedding_size", 8)
    with pytest.raises(CheckpointError, match=rf"was trained with {key}="):
        run("CoRA", **small, cf_config={key: value})


def test_an_option_that_contradicts_the_run_names_both_values(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error is one line. Repeating the run's value, or changing a setting that affects no score, is allowed."""
    folder = run("MF", epochs=1, embedding_size=8)["folder"]
    arguments = ["run", f"--checkpoint={folder}", "--show_progress=False"]
    assert cli.main([*arguments, "--embedding_size=16", "--bias=False"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "embedding_size=8 (here 16), bias=True (here False)" in line
    assert cli.main([*arguments, "--model=LGCN"]) == 2
    assert "is a run of MF, but --model is 'LGCN'" in capsys.readouterr().err
    assert cli.main([*arguments, "--embedding_size=8", "--eval_batch_size=7", "--model=MF", "--dataset=toy"]) == 0


def test_a_run_of_the_version_before_can_be_scored(toy: Path) -> None:
    """Such a run's result.json has values that RecBole derived among its settings."""
    result = run("MF", epochs=1, embedding_size=8)
    path = Path(result["folder"]) / "result.json"
    content = json.loads(path.read_text())
    derived = {
        "MODEL_TYPE": "ModelType.GENERAL",
        "device": "cpu",
        "scores_are_logits": True,
        "batches_may_shrink": False,
    }
    derived["train_neg_sample_args"] = {"distribution": "none", "sample_num": "none"}
    content["config"] |= content.pop("recbole_config") | derived
    path.write_text(json.dumps(content))
    assert run(checkpoint=result["folder"])["test"] == result["test"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"config": 3}', '{"model": "MF"}'])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    """The error says what was expected."""
    with pytest.raises(CheckpointError, match="expected the folder of a run"):
        read_run(tmp_path)
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CheckpointError, match="was not written by a run"):
        read_run(tmp_path)
