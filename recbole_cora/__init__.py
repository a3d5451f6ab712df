"""recbole-cora: Collaborative LoRA as a RecBole model.

A frozen LLM reads a plain text prompt while a small generator turns the frozen collaborative-filtering embeddings of
that user and item into low-rank weights for that one pair (arXiv 2408.10645).

Data flows one way, and files import only downward:

    0  errors, files, cache, processes
    1  settings/ (declared once, typed, frozen), config; protocol, prompts, repairs, recbole_needs, metrics, report
    2  restore (a run's settings), llm_choice;  prepare/;  ratings -> rows_dataset, row_prompts, row_features;
       generator;  cf -> controls
       llm/ (frozen and how it reads, what conditions it: deltas, vectors, lora; tiny)
    3  models/ (CoRA, the LLM baselines, CF models), checkpoint, training_state
    4  board, microbatches, loss_in_parts, trainer, stage
    5  registry, evidence, parts/ (a model's frozen parts, made ready), run_folder, quick_start
    6  compare/, tune/, cli

Shapes everywhere: N pairs, L tokens, d hidden size of the LLM, r rank, c CF size, k queries, R rows.

The public API, from Python as from the command line, is `run(model=, dataset=, options=)`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["run"]


def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """See `recbole_cora.quick_start.run`; imported on first use, so that `llm` and `generator` need no recbole."""
    from recbole_cora.quick_start import run as run_

    return run_(*args, **kwargs)
