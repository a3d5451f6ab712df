"""The paths of the projections q, k, v, o, up and down in each family of LLMs.

A family is a row of `FAMILIES`: the path of its list of decoder blocks, and the path of each kind of projection within
a block. To add a family, add a row here and a small model to `OPTIONS` in `tests/llms.py`; the laws of
`tests/test_llm_laws.py` then check it against an explicit W + dW. To try a family without editing this file, set
`llm_modules` to such paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_cora.errors import LLMError, SettingError, nearest

KINDS = ("q", "k", "v", "o", "up", "down")
LETTERS = {"q": ("q",), "k": ("k",), "v": ("v",), "o": ("o",), "f": ("up", "down")}


@dataclass(frozen=True, eq=False)
class WeightTarget:
    """One projection of one decoder block that receives a delta.

    module: the projection x -> W x (+ bias), [N, L, d_in] -> [N, L, width].
    d_in, d_out: widths of dW.
    rows: for a fused projection, the output features of this kind ([d_out]); None means all of them.
    """

    layer: int
    kind: str
    module: nn.Module
    d_in: int
    d_out: int
    rows: Tensor | None = None

    @property
    def name(self) -> str:
        """The target's name, such as `"3.q"`."""
        return f"{self.layer}.{self.kind}"


@dataclass(frozen=True)
class Family:
    """The paths of a family's projections, and how they are fused.

    layers: path of the list of decoder blocks in the model; the other paths start at a block.
    fused: layout of q, k and v in one projection: "stacked" = all of q, then k, then v; "per_head" = q, k and v of head
        0, then of head 1, and so on; "" = not fused.
    gate_up: `up` is the second half of a projection whose first half is the gate.
    """

    layers: str
    q: str
    k: str
    v: str
    o: str
    up: str
    down: str
    fused: str = ""
    gate_up: bool = False


_LLAMA = Family(
    layers="model.layers",
    q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj",
    up="mlp.up_proj", down="mlp.down_proj",
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "phi": Family(
        layers="model.layers",
        q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.dense",
        up="mlp.fc1", down="mlp.fc2",
    ),
    "phi3": Family(
        layers="model.layers",
        q="self_attn.qkv_proj", k="self_attn.qkv_proj", v="self_attn.qkv_proj", o="self_attn.o_proj",
        up="mlp.gate_up_proj", down="mlp.down_proj", fused="stacked", gate_up=True,
    ),
    "gpt2": Family(
        layers="transformer.h",
        q="attn.c_attn", k="attn.c_attn", v="attn.c_attn", o="attn.c_proj",
        up="mlp.c_fc", down="mlp.c_proj", fused="stacked",
    ),
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        q="attention.query_key_value", k="attention.query_key_value", v="attention.query_key_value",
        o="attention.dense", up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", fused="per_head",
    ),
}  # fmt: skip


def weight_targets(model: Any, weight_types: str, module_names: dict[str, str] | None = None) -> list[WeightTarget]:
    """Return the projections that `weight_types` names, block by block.

    Args:
        model: a causal LM with its `config`.
        weight_types: letters from q, k, v, o and f (the feed-forward's up and down), such as "qkvo".
        module_names: the setting `llm_modules`: {layers: path, q: path in a block, ...}, replacing the family's row.

    Raises:
        SettingError: an unknown or repeated letter, or an unknown key in `module_names`.
        LLMError: the family is not in the table, or the model lacks a path.
    """
    kinds = _kinds(weight_types)
    family, paths = _paths(model.config.model_type, kinds, module_names)
    targets = []
    for layer, block in enumerate(_submodule(model, paths["layers"], "layers").children()):
        for kind in kinds:
            module = _submodule(block, paths[kind], kind)
            d_in, width = _widths(module, paths[kind])
            rows = _rows(model.config, family, kind, width) if family else None
            targets.append(WeightTarget(layer, kind, module, d_in, width if rows is None else len(rows), rows))
    return targets


def decoder_blocks(model: Any) -> list[nn.Module]:
    """Return the decoder blocks in order; empty if the family is not in the table."""
    family = FAMILIES.get(model.config.model_type)
    return list(_submodule(model, family.layers, "layers").children()) if family else []


def _kinds(weight_types: str) -> list[str]:
    unknown = [letter for letter in weight_types if letter not in LETTERS]
    if unknown or not weight_types or len(set(weight_types)) < len(weight_types):
        raise SettingError(
            f"weight types '{weight_types}': expected distinct letters of q, k, v, o and f (the feed-forward), "
            f"such as 'qkvo'"
        )
    kinds = {kind for letter in weight_types for kind in LETTERS[letter]}
    return [kind for kind in KINDS if kind in kinds]


def _paths(model_type: str, kinds: list[str], custom: dict[str, str] | None) -> tuple[Family | None, dict[str, str]]:
    """Return the family (None if `custom` replaces it) and the paths of the layers and of each kind."""
    if custom:
        for key in custom:
            if key not in ("layers", *KINDS):
                raise SettingError(f"llm_modules has an unknown key '{key}'{nearest(key, ('layers', *KINDS))}")
        missing = [key for key in ("layers", *kinds) if key not in custom]
        if missing:
            raise LLMError(
                f"llm_modules lacks {', '.join(missing)}; give a path for the layers and for each weight type"
            )
        kind_paths = [custom[kind] for kind in kinds]
        if len(set(kind_paths)) < len(kind_paths):
            raise LLMError("llm_modules gives one path to two kinds; a fused projection needs a row in llm/families.py")
        return None, dict(custom)
    if model_type not in FAMILIES:
        raise LLMError(
            f"unknown LLM family '{model_type}'; known: {', '.join(FAMILIES)}. For another, set llm_modules, "
            f"such as {{layers: model.layers, q: self_attn.q_proj, k: self_attn.k_proj, v: self_attn.v_proj, "
            f"o: self_attn.o_proj}}"
        )
    family = FAMILIES[model_type]
    return family, {key: getattr(family, key) for key in ("layers", *KINDS)}


def _submodule(parent: nn.Module, path: str, key: str) -> nn.Module:
    try:
        return parent.get_submodule(path)
    except AttributeError:
        inside = ", ".join(name for name, _ in parent.named_children())
        raise LLMError(f"no module '{path}' (llm_modules: {key}) in {type(parent).__name__}; it has {inside}") from None


def _widths(module: nn.Module, path: str) -> tuple[int, int]:
    """Return (d_in, d_out) of a Linear, quantised or not, or of a Conv1D, whose weight is [d_in, d_out]."""
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(d_in, int) and isinstance(d_out, int):
        return d_in, d_out
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor):
        return weight.shape[0], weight.shape[1]
    raise LLMError(f"'{path}' is a {type(module).__name__}; expected a linear projection")


def _rows(config: Any, family: Family, kind: str, width: int) -> Tensor | None:
    """Return the output features of `kind` in a fused projection of `width` features; None means all of them."""
    if kind == "up" and family.gate_up:
        return torch.arange(width // 2, width)
    if kind not in ("q", "k", "v") or not family.fused:
        return None
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads  # grouped-query attention has fewer of them
    size = width // (heads + 2 * kv_heads)  # width of a head
    place = "qkv".index(kind)
    if family.fused == "per_head":
        return torch.arange(width).view(heads, 3, size)[:, place].reshape(-1)
    bounds = [0, heads * size, (heads + kv_heads) * size, width]
    return torch.arange(bounds[place], bounds[place + 1])
