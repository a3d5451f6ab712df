"""Tiny random LLMs of every family, prompts for them, and weights."""

from __future__ import annotations

from typing import Any

import torch

from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import WeightTarget
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import load_template

SMALL: dict[str, Any] = {
    "vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 2, "head_dim": 16},  # heads * head_dim = 64, not d
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 5.0},
    "phi": {},
    "phi3": {"num_key_value_heads": 2},
    "gpt2": {},
    "gpt_neox": {},
}
N = 5


def prompts(llm: FrozenLLM) -> list[list[int]]:
    """Return N prompts of different lengths, not sorted."""
    encoder = PromptEncoder(llm.tokenizer, load_template("movies"), llm.max_tokens)
    return [encoder.encode(["Heat", "Toy Story"] * length, "GoldenEye") for length in (3, 0, 4, 1, 2)]


def random_weights(targets: list[WeightTarget], seed: int = 0, rank: int = 4) -> PairWeights:
    """Return weights of N pairs, large enough to change scores."""
    draw = torch.Generator().manual_seed(seed)
    A = {width: 0.1 * torch.randn(N, width, rank, generator=draw) for width in {t.d_in for t in targets}}
    return PairWeights(A, {t.name: 0.3 * torch.randn(rank, t.d_out, generator=draw) for t in targets}, scale=2.0)
