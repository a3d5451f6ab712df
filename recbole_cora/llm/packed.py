"""Packed prompts: N of them as one row of T tokens, so that no padding is computed, and the last block read only where
the answer is.

`transformers` lets an attention function be registered and hands it whatever a model's forward is given; ours is given
a `Packing` and attends within each prompt. Without one it is ordinary causal attention.

The last block is pruned: of all T tokens its keys and values are needed, of the N last ones everything else. Its own
forward is called twice, without knowledge of what is in it: with all tokens, stopped as soon as keys and values are
there; then with the last tokens, which attend to these.

Legend: N prompts, T tokens of all of them, h heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

#: The name under which `packed_attention` is registered.
NAME = "recbole_cora_packed"


@dataclass(frozen=True, eq=False)
class Packing:
    """Which tokens of the row belong together.

    lengths: tokens of each prompt, in order.
    last: place of each prompt's last token in the row [N].
    keys: set while the last block is read: "wanted" stops its forward with the keys and values; (k, v) are then those.
    """

    lengths: tuple[int, ...]
    last: Tensor
    keys: Any = None

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[int]], device: torch.device) -> Packing:
        """Of prompts as token ids."""
        lengths = tuple(len(ids) for ids in token_ids)
        return cls(lengths, (torch.tensor(lengths).cumsum(0) - 1).to(device))

    def positions(self) -> Tensor:
        """Position of each token in its prompt: [1, T]."""
        places = [torch.arange(length) for length in self.lengths]
        return torch.cat(places).unsqueeze(0).to(self.last.device)


class _Keys(Exception):
    """Carries keys and values out of the last block's forward."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.pair = key, value


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention [1, h, T, e] -> [1, T, h, e] in which a token of a packed row sees its own prompt's earlier ones.

    The signature is `transformers`' own for attention functions. Without `packing`: causal within each row of a batch,
    or as `attention_mask` says.
    """
    options: dict[str, Any] = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    if packing is None:
        return _attend(query, key, value, mask=attention_mask, **options).transpose(1, 2), None
    if packing.keys == "wanted":
        raise _Keys(key, value)
    queries = packing.lengths
    if packing.keys is not None:
        key, value = packing.keys
        queries = (1,) * len(packing.lengths)
    parts = zip(
        query.split(queries, dim=2), key.split(packing.lengths, dim=2), value.split(packing.lengths, dim=2), strict=True
    )
    return torch.cat([_attend(q, k, v, **options).transpose(1, 2) for q, k, v in parts], dim=1), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention where the queries are the last of the keys: [N, h, L, e]; keys may have fewer heads."""
    asked, known = query.shape[2], key.shape[2]
    causal = mask is None and 1 < asked == known
    if mask is None and ((window and known > window) or (softcap and asked > 1)):
        place = torch.arange(known - asked, known, device=query.device)[:, None]
        other = torch.arange(known, device=query.device)
        mask, causal = (other <= place) & (place - other < (window or known)), False
    if softcap:  # Gemma 2; no fused kernel knows it
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(2, 3) * (scaling or query.shape[3] ** -0.5)
        scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.float().softmax(dim=-1).to(value.dtype) @ value
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
    )


@contextmanager
def pruned(block: nn.Module, packing: Packing) -> Iterator[None]:
    """Within this context the block, the model's last, answers of the N last tokens only: [1, N, d]."""
    forward = block.forward
    tokens = sum(packing.lengths)

    def last_only(value: Any) -> Any:
        """An argument that has the row's tokens along an axis, at the last tokens."""
        if isinstance(value, (tuple, list)):
            return type(value)(map(last_only, value))
        if isinstance(value, Tensor):
            for axis in range(min(value.dim(), 2)):
                if value.shape[axis] == tokens:
                    return value.index_select(axis, packing.last)
        return value

    def read(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        try:
            forward(hidden, *args, **{**kwargs, "packing": replace(packing, keys="wanted")})
        except _Keys as keys:
            found = replace(packing, keys=keys.pair)
            others = {name: last_only(value) for name, value in kwargs.items()}
            return forward(last_only(hidden), *map(last_only, args), **{**others, "packing": found})
        raise RuntimeError(f"{type(block).__name__} did not hand its packing to the attention")

    block.forward = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        del block.forward
