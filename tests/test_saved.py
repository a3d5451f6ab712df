"""The model of an earlier run, loaded from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recbole_cora
from recbole_cora.errors import CheckpointError
from recbole_cora.parts.saved import load_saved
from tests.test_run import TINY


@pytest.mark.parametrize("model", ["MF", "CoRA"])
def test_a_loaded_run_scores_as_it_did(toy: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder alone is enough: dataset and cache are found where the run had them, and all scores are equal."""
    options = TINY if model == "CoRA" else {"epochs": 2, "show_progress": False}
    places = {"data_path": str(toy.parent), "cache_dir": str(toy.parent / "cache")}
    result = recbole_cora.run(model=model, dataset="toy", options={**options, **places})
    folder = Path(result["folder"]).resolve()
    monkeypatch.chdir("/")
    stage, parts = load_saved(folder)
    assert stage.metrics("test", stage.score("test")) == result["test"]
    assert not stage.model.training
    assert (parts.llm is not None) == (model == "CoRA")
    again, _ = load_saved(folder)
    assert np.array_equal(again.score("valid"), stage.score("valid"))


def test_a_folder_without_weights_is_refused(toy: Path) -> None:
    """The error names the missing file; an option that contradicts the run is refused as well."""
    folder = Path(recbole_cora.run(model="MF", dataset="toy", options={"epochs": 1, "show_progress": False})["folder"])
    with pytest.raises(CheckpointError, match="embedding_size"):
        load_saved(folder, {"embedding_size": 7})
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_saved(folder)
    with pytest.raises(CheckpointError, match="expected the folder of a run"):
        load_saved(toy)
