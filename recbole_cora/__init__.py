"""recbole-cora: Collaborative LoRA as a RecBole model.

A frozen LLM reads a plain text prompt while a small generator turns the frozen collaborative-filtering embeddings of
that user and item into low-rank weights for that one pair (arXiv 2408.10645).

Data flows one way: ratings -> rows and prompts -> CF vectors -> weights -> LLM -> score -> metrics -> report. Files
import only downward:

    6  compare/, tune/, cli               several runs; the command line
    5  quick_start, parts/, registry      one run: its frozen parts are made, its model is trained and scored
    4  training/                          stage, trainer, checkpoint, resuming, the run folder
    3  models/                            CoRA, the LLM baselines, CF models
    2  data/, prompts/, cf/, llm/, generator, prepare/
    1  settings/, metrics, summary, repairs
    0  errors, files, cache, processes

Shapes everywhere: N pairs, L tokens, d hidden size of the LLM, r rank, c CF size, k queries, R rows.

The names below are the public API. Each is imported on first use, so the generator and the frozen LLM work without
RecBole.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_cora.errors import (
        CheckpointError,
        CoraError,
        DataError,
        LLMError,
        SettingError,
        Stopped,
        WriteError,
    )
    from recbole_cora.generator import CollaborativeWeightsGenerator
    from recbole_cora.llm.conditioning import Conditioning
    from recbole_cora.llm.families import weight_targets
    from recbole_cora.llm.frozen import FrozenLLM
    from recbole_cora.models.cora import CoRA

__all__ = [
    "CheckpointError", "CoRA", "CollaborativeWeightsGenerator", "Conditioning", "CoraError", "DataError", "FrozenLLM",
    "LLMError", "SettingError", "Stopped", "WriteError", "run", "weight_targets",
]  # fmt: skip

_MODULES = {
    **dict.fromkeys(
        ("CheckpointError", "CoraError", "DataError", "LLMError", "SettingError", "Stopped", "WriteError"), "errors"
    ),
    "CoRA": "models.cora",
    "CollaborativeWeightsGenerator": "generator",
    "Conditioning": "llm.conditioning",
    "FrozenLLM": "llm.frozen",
    "weight_targets": "llm.families",
}


def run(
    model: str | None = None,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    config_files: Sequence[str] | None = None,
    *,
    on_valid: Callable[[int, dict[str, float | None]], None] | None = None,
    test: bool = True,
) -> dict[str, Any]:
    """Train a model on a dataset and score it; the result is also written to the run's folder.

    Args:
        model: `CoRA`, `MF`, `LGCN`, `SAS`, another model of this package, or any model of RecBole.
        dataset: a folder of `data_path`, or `ml-100k`.
        options: settings as Python values; they override the files.
        config_files: YAML files of settings; later files win.
        on_valid: called after each evaluation in training, with the number of epochs so far and the valid metrics.
        test: False skips the test rows.

    Returns:
        The content of `result.json`, and `folder`, the run's path.

    Raises:
        CoraError: any mistake that a user can make; nothing is left half-written.
        Stopped: SIGTERM, SIGHUP or Ctrl-C came; the run can be resumed.
    """
    from recbole_cora.quick_start import run as run_

    return run_(model, dataset, options, config_files, on_valid=on_valid, test=test)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'recbole_cora' has no attribute '{name}'")
    return getattr(importlib.import_module(f"recbole_cora.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
