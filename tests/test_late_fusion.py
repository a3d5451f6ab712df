"""Laws of LateFusion: what its regression is fitted on, what it makes of good and of useless scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from torch import Tensor, nn

import recbole_cora
from recbole_cora import metrics, repairs
from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.errors import DataError, LLMError
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.metrics import auc
from recbole_cora.models.late_fusion import Regression
from recbole_cora.parts.encoder import ready_encoder
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import Stage

repairs.apply_all()
metrics.register()

TINY: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "show_progress": False, "seed": 3,
}  # fmt: skip
ENCODER: dict[str, Any] = {"cf_config": {"epochs": 2}, "cf_folds": 2}


class RowNumbers:
    """Stands in for the prompts: a row's prompt is its number."""

    def of(self, rows: list[int]) -> list[int]:
        return rows

    def questions(self, rows: list[int]) -> None:
        return None


class GivenLLM(nn.Module):
    """Stands in for the LLM: its score of each row is given. `rows_read` are the rows that it was asked about."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        super().__init__()
        self.scores, self.rows_read = torch.from_numpy(scores).float(), list[int]()

    def score(self, rows: list[int], conditioning: Conditioning) -> Tensor:
        assert conditioning.starts is None and conditioning.weights is None and conditioning.lora is None
        self.rows_read += rows
        return self.scores[rows]


class GivenEncoder(nn.Module):
    """Stands in for the encoder: its evidence, one number per row, is given."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        super().__init__()
        self.scores = torch.from_numpy(scores).float()

    def forward(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor]:
        nothing = torch.empty(len(interaction), 0)
        return nothing, nothing, self.scores[interaction[ROW]].unsqueeze(1)


@pytest.fixture
def ratings(toy: Path) -> Ratings:
    return load_ratings(toy, "toy", fusion_config().final_config_dict)


def fusion_config(**options: Any) -> CoraConfig:
    return CoraConfig(model_class("LateFusion"), "toy", {"show_progress": False, "seed": 3, **options})


def fuse(ratings: Ratings, llm: nn.Module, encoder: nn.Module, **options: Any) -> Stage:
    """Return a stage with a LateFusion of these parts."""
    config = fusion_config(**options)
    make = model_class("LateFusion")
    return Stage(config, ratings, lambda c, d: make(c, d, encoder=encoder, llm=llm, prompts=RowNumbers()))


def noisy_labels(ratings: Ratings, seed: int, noise: float = 1.0) -> NDArray[np.float64]:
    """Return a score of each row that says something about its label."""
    return ratings.label + noise * np.random.default_rng(seed).standard_normal(len(ratings))


def constant(ratings: Ratings) -> NDArray[np.float64]:
    return np.full(len(ratings), 0.25)


def order(scores: NDArray[np.float32]) -> list[int]:
    return np.argsort(scores, kind="stable").tolist()


def test_with_an_llm_that_says_nothing_it_ranks_as_the_encoder_does(ratings: Ratings) -> None:
    """A constant LLM leaves the encoder's order exactly, a random one nearly; and the other way round."""
    cf, test = noisy_labels(ratings, 0, noise=0.5), ratings.rows("test")
    for llm, encoder in ((constant(ratings), cf), (cf, constant(ratings))):
        scores = fuse(ratings, GivenLLM(llm), GivenEncoder(encoder)).score("test")
        assert order(scores) == order(cf[test].astype(np.float32))
    random = np.random.default_rng(1).standard_normal(len(ratings))
    scores = fuse(ratings, GivenLLM(random), GivenEncoder(cf)).score("test")
    assert np.corrcoef(scores, cf[test])[0, 1] > 0.99


def test_two_scores_that_know_different_things_are_better_together(ratings: Ratings) -> None:
    """The fusion of two noisy views of the labels is above both."""
    llm, cf = noisy_labels(ratings, 0), noisy_labels(ratings, 1)
    rows = ratings.rows("train")
    stage = fuse(ratings, GivenLLM(llm), GivenEncoder(cf))
    alone = [auc(scores[rows], ratings.label[rows]) for scores in (llm, cf)]
    assert auc(stage.score("train"), ratings.label[rows]) > max(alone) + 0.03


def test_the_scale_of_a_score_does_not_matter(ratings: Ratings) -> None:
    """Adding a number to a score, or multiplying it, changes no logit and no weight per standard deviation."""
    llm, cf = noisy_labels(ratings, 0), noisy_labels(ratings, 1)
    one = fuse(ratings, GivenLLM(llm), GivenEncoder(cf))
    other = fuse(ratings, GivenLLM(30 * llm - 7), GivenEncoder(0.01 * cf + 2))
    np.testing.assert_allclose(one.score("test"), other.score("test"), atol=1e-3)
    assert one.model.result_entries()["fusion"]["weights"] == pytest.approx(
        other.model.result_entries()["fusion"]["weights"], abs=1e-3
    )


def test_an_encoder_that_memorises_the_train_labels_gets_a_small_weight(ratings: Ratings) -> None:
    """It is judged by its out-of-fold scores: its own scores of the train rows would get a weight many times larger."""
    memorising = {"learning_rate": 0.05, "weight_decay": 0.0, "train_batch_size": 16, "epochs": 30, "init_std": 0.3}
    config = fusion_config(cf_encoder="MF", cf_config={**memorising, "stopping_step": 30}, cf_folds=2)
    encoder, encoder_stage = ready_encoder(config, ratings)
    label, in_sample = ratings.label[ratings.rows("train")], encoder_stage.score("train")
    assert auc(in_sample, label) > 0.95
    trusting = Regression(1)
    trusting.fit(in_sample.astype(np.float64)[:, None], label)
    weights = fuse(ratings, GivenLLM(constant(ratings)), encoder).model.result_entries()["fusion"]["weights"]
    assert trusting.weights.item() > 2 and abs(weights["score"]) < trusting.weights.item() / 5


@pytest.mark.parametrize(("fusion_rows", "number"), [(50, 50), (None, 192), (5000, 192)])
def test_fusion_rows_bounds_the_prompts_that_are_read(ratings: Ratings, fusion_rows: int | None, number: int) -> None:
    """Building the model reads so many train prompts, each once, drawn by the seed; no valid or test prompt."""
    drawn = []
    for seed in (1, 1, 2):
        llm = GivenLLM(noisy_labels(ratings, 0))
        options = {"fusion_rows": fusion_rows, "eval_batch_size": 32, "seed": seed}
        model = fuse(ratings, llm, GivenEncoder(noisy_labels(ratings, 1)), **options).model
        assert len(llm.rows_read) == len(set(llm.rows_read)) == number == model.result_entries()["fusion"]["rows"]
        assert set(llm.rows_read) <= set(ratings.rows("train").tolist())
        drawn.append(set(llm.rows_read))
    assert drawn[0] == drawn[1] and (drawn[0] != drawn[2] or number == 192)


def test_a_checkpoint_replaces_the_fit(ratings: Ratings, tmp_path: Path) -> None:
    """With `checkpoint` no train prompt is read. The loaded regression gives the same scores and coefficients."""
    scores = noisy_labels(ratings, 0), noisy_labels(ratings, 1)
    stage = fuse(ratings, GivenLLM(scores[0]), GivenEncoder(scores[1]))
    stage.fit(tmp_path, title="")
    llm = GivenLLM(scores[0])
    again = fuse(ratings, llm, GivenEncoder(scores[1]), checkpoint=str(tmp_path))
    assert not llm.rows_read
    assert len(set(again.score("test").tolist())) == 1  # nothing is fitted yet
    again.load(tmp_path)
    assert np.array_equal(again.score("test"), stage.score("test"))
    assert again.model.result_entries() == stage.model.result_entries()


def test_rows_of_one_label_are_refused(ratings: Ratings) -> None:
    """The error names the setting to raise."""
    few = {"fusion_rows": 2}
    random = np.random.default_rng(0)
    llm, encoder = GivenLLM(random.random(len(ratings))), GivenEncoder(random.random(len(ratings)))
    refused = 0
    for seed in range(8):
        try:
            fuse(ratings, llm, encoder, **few, seed=seed)
        except DataError as error:
            refused += 1
            assert "the 2 train rows" in str(error) and "--fusion_rows" in str(error) and "\n" not in str(error)
    assert 0 < refused < 8


def test_a_score_that_is_not_finite_is_refused(ratings: Ratings) -> None:
    """The error counts such prompts and names the setting that helps."""
    llm = noisy_labels(ratings, 0)
    llm[ratings.rows("train")[:3]] = np.nan
    with pytest.raises(LLMError, match=r"of 3 of 192 prompts is not finite.*--dtype"):
        fuse(ratings, GivenLLM(llm), GivenEncoder(noisy_labels(ratings, 1)))


@pytest.mark.parametrize("encoder", ["MF", "LGCN", "SAS", "BPR", "SASRec"])
def test_it_runs_on_each_encoder_and_from_its_checkpoint(toy: Path, encoder: str) -> None:
    """The result has the coefficients and both references. With the run as a checkpoint, all of them are the same."""
    result = recbole_cora.run("LateFusion", "toy", {**TINY, **ENCODER, "cf_encoder": encoder, "fusion_rows": 60})
    assert list(result["fusion"]["weights"]) == ["llm", "score"] and result["fusion"]["rows"] == 60
    assert set(result["reference"]) == {"cf_encoder", "llm_only"} and result["trainable_parameters"] == 0
    saved = json.loads((Path(result["folder"]) / "result.json").read_text())
    assert saved["fusion"] == result["fusion"]
    again = recbole_cora.run(options={"checkpoint": result["folder"], "show_progress": False})
    for key in ("fusion", "test", "valid", "reference"):
        assert again[key] == result[key]


def test_its_references_are_runs_of_its_own_parts(toy: Path) -> None:
    """The LLM alone scores as ICL does, and the encoder as its own run does, also from `cf_checkpoint`."""
    encoder_run = recbole_cora.run("MF", "toy", {"epochs": 2, "show_progress": False, "seed": 3})
    options = {**TINY, "cf_checkpoint": encoder_run["folder"], "cf_folds": 2}
    result = recbole_cora.run("LateFusion", "toy", options)
    assert result["reference"]["llm_only"] == recbole_cora.run("ICL", "toy", TINY)["test"]
    assert result["reference"]["cf_encoder"] == encoder_run["test"]


def test_more_evidence_is_more_inputs(toy: Path) -> None:
    """Each number of the evidence has a weight of its own; without evidence, only the LLM has one."""
    for evidence, names in (("all", ["score", "user_average", "item_average", "colikes", "taste"]), ([], [])):
        result = recbole_cora.run("LateFusion", "toy", {**TINY, **ENCODER, "cf_evidence": evidence})
        assert list(result["fusion"]["weights"]) == ["llm", *names]


def test_a_run_that_was_stopped_ends_the_same(toy: Path) -> None:
    """A run without a result is resumed by fitting again, on the same rows."""
    result = recbole_cora.run("LateFusion", "toy", {**TINY, **ENCODER, "fusion_rows": 60})
    folder = Path(result["folder"])
    (folder / "result.json").unlink()
    resumed = recbole_cora.run("LateFusion", "toy", {**TINY, **ENCODER, "fusion_rows": 60, "resume": str(folder)})
    assert resumed["folder"] == result["folder"]
    assert resumed["fusion"] == result["fusion"] and resumed["test"] == result["test"]
