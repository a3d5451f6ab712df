"""The identity of an LLM: a hash that differs between models, but not between dtypes or devices."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from recbole_cora.llm import hub

_WHOLE = 1 << 20  # larger tensors are sampled
_SAMPLE = 1 << 16
#: Keys of a config that describe how a model was loaded, not what it is.
_NOT_CONTENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def fingerprint(model: Any) -> str:
    """Return the SHA-256 of the config and of every parameter's name, shape and values.

    Values are hashed in bfloat16, so the dtype in which a model is loaded does not matter. Tensors with more than 2^20
    elements are sampled at 2^16 evenly spaced elements: this distinguishes models, but may miss a change of single
    elements in a large model.
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
