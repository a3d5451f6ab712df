"""Laws of several processes: together they are one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

OPTIONS: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "steps_per_epoch": 5, "hidden": 32,
    "feed_forward": 32, "rank": 4, "learning_rate": 0.01, "warmup_steps": 2, "cf_config": {"epochs": 2}, "cf_folds": 2,
    "epochs": 3, "generator_dropout": 0.0, "cf_dropout": 0.0, "train_batch_size": 9, "seed": 3, "show_progress": False,
}  # fmt: skip


def launched(count: int, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """The result of a run in `count` processes, as torchrun and accelerate start them."""
    arguments = [f"--{key}={json.dumps(value)}" for key, value in options.items()]
    command = ["-m", "recbole_cora.cli", "run", f"--model={model}", "--dataset=toy", *arguments]
    before = set(Path("saved").glob("*/result.json"))
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"] if count > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = set(Path("saved").glob("*/result.json")) - before  # one writer
    found: dict[str, Any] = {**json.loads(path.read_text()), "folder": path.parent}
    return found


@pytest.mark.parametrize(
    ("model", "options"), [("CoRA", OPTIONS), ("MF", {"epochs": 3, "train_batch_size": 50, "seed": 3})]
)
def test_two_processes_train_and_score_as_one(toy: Path, model: str, options: dict[str, Any]) -> None:
    """The same rows, the same weights but for rounding, the same metrics; one folder, one writer."""
    one, two = (launched(count, model, options) for count in (1, 2))
    assert one["rows"] == two["rows"]
    weights = [load_file(found["folder"] / "model.safetensors") for found in (one, two)]
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(
            tensor.numpy(), weights[1][name].numpy(), rtol=1e-3, atol=1e-4
        )  # Adam makes steps of noise too
    for split in ("valid", "test"):
        assert one[split]["auc"] == two[split]["auc"] and one[split]["uauc"] == two[split]["uauc"]
        assert abs(one[split]["logloss"] - two[split]["logloss"]) < 1e-4
