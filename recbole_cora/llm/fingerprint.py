"""Which LLM this is: a hash that tells models apart, and not the dtype or the place in which one is read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from recbole_cora.llm import hub

_WHOLE = 1 << 20  # of tensors with more elements a sample is taken
_SAMPLE = 1 << 16
#: Keys of a config that say where and in what a model was read, and by which release.
_NOT_CONTENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def fingerprint(model: Any) -> str:
    """SHA-256 of the config and of every parameter's name, shape and values.

    Values are taken in bfloat16, so that one model is the same in whatever dtype it is read. Of a tensor with more than
    2^20 elements 2^16 evenly spaced ones are hashed: another model is always told apart, a change of single elements in
    a large model may not be.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_CONTENT}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path, module in sorted(model.named_modules()):
        with hub.at_hand(module):
            for name, parameter in sorted(module.named_parameters(path, recurse=False)):
                digest.update(f"{name} {tuple(parameter.shape)}".encode())
                digest.update(_sample(parameter))
    return digest.hexdigest()


def _sample(parameter: Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    if flat.numel() > _WHOLE:
        flat = flat[:: -(-flat.numel() // _SAMPLE)]
    flat = flat.bfloat16() if flat.is_floating_point() else flat
    return flat.contiguous().view(torch.uint8).cpu().numpy().tobytes()
