"""Each repair of RecBole 1.2.1 mends what it says, and applying all of them twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import recbole_cora
from recbole_cora import repairs
from tests.conftest import write_toy


def test_names_that_recbole_reads_are_there() -> None:
    repairs.apply_all()
    repairs.apply_all()
    assert np.float_ is np.float64 and np.unicode_ is np.str_
    matrix = sp.dok_matrix((2, 2))
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]


def test_autograd_searches_no_gradient_for_nan() -> None:
    """Although every RecBole sequential model is importable."""
    repairs.apply_all()
    import recbole.model.sequential_recommender  # noqa: F401

    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("model", ["FM", "DeepFM"])
def test_recbole_reads_titles_with_quotes_in_its_feature_models(toy: Path, model: str) -> None:
    """A title that begins with a quote neither merges rows nor fails; plain RecBole's CSV quoting does both."""
    items = [f'i{n}\t"Quoted {n}\tDrama' for n in range(30)]
    write_toy(toy.parent, "quoted", item="\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *items]) + "\n")
    options = {"epochs": 1, "show_progress": False, "load_col": {"inter": ["user_id", "item_id"], "item": "*"}}
    result = recbole_cora.run(model=model, dataset="quoted", options=options)
    assert result["rows"]["train"] == 192
