"""Laws of a stage: which rows it scores, and which signals stop its training between two steps."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_cora import metrics, repairs
from recbole_cora.data.ratings import load_ratings
from recbole_cora.data.recbole_dataset import ROW
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.signals import stop_between_steps
from recbole_cora.training.stage import Stage


def make(model: str) -> Stage:
    repairs.apply_all()
    metrics.register()
    config = CoraConfig(model_class(model), "toy", {"show_progress": False, "seed": 3, "eval_batch_size": 50})
    return Stage(config, load_ratings(Path(config["data_path"]), "toy", config.final_config_dict))


@pytest.mark.parametrize("model", ["MF", "BPR", "SASRec"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_is_scored_row_by_row_in_order(toy: Path, model: str, split: str) -> None:
    """The train split has all rows for MF, but only the liked ones for BPR and SASRec, which ignore labels."""
    stage = make(model)
    ratings = stage.ratings
    rows = torch.cat([batch[ROW] for batch in stage.rows(split)]).numpy()
    expected = ratings.rows(split)
    if split == "train" and model != "MF":
        expected = expected[ratings.label[expected] == 1]
    assert np.array_equal(rows, expected)
    stage.model.eval()
    with torch.no_grad():
        scores = torch.cat([stage.model.predict(batch) for batch in stage.rows(split)]).numpy()
    assert len(set(scores)) > 5  # otherwise a wrong order would pass
    np.testing.assert_allclose(stage.score(split), scores, rtol=0, atol=1e-6)


def test_a_split_that_does_not_exist_is_not_scored(toy: Path) -> None:
    """An unknown name of a split is an error; no other split is scored instead."""
    with pytest.raises(KeyError, match="tset"):
        make("MF").score("tset")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_asks_the_training_to_stop(number: signal.Signals) -> None:
    """The process continues, and the earlier handlers are restored afterwards.

    A second SIGHUP is ignored, since a closed terminal sends two. A signal that is ignored from the start, as SIGHUP is
    under nohup, stays ignored.
    """
    before = signal.getsignal(number)
    calls = []
    try:
        signal.signal(number, lambda *_: calls.append("the earlier handler"))
        trainer = SimpleNamespace(stopping=0)
        with stop_between_steps(trainer):
            signal.raise_signal(number)
            assert trainer.stopping == number and not calls
            signal.raise_signal(number)
            assert calls == ([] if number == signal.SIGHUP else ["the earlier handler"])
        calls.clear()
        signal.raise_signal(number)
        assert calls == ["the earlier handler"]
        signal.signal(number, signal.SIG_IGN)
        trainer = SimpleNamespace(stopping=0)
        with stop_between_steps(trainer):
            signal.raise_signal(number)
        assert trainer.stopping == 0 and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
