"""Packed reading: N prompts in one row of T tokens, without padding; the last block computes their last tokens only.

`transformers` accepts a registered attention function and passes it all keyword arguments of a model's forward. Ours
receives a `Packing` and attends within each prompt. Without a `Packing` it is ordinary causal attention.

Pruning: the last block must compute keys and values for all T tokens, but everything else only for the N last tokens.
Its forward is called twice, whatever it contains: first with all tokens, until keys and values exist; then with the
last tokens, which attend to those keys and values.

If a prompt's prefix has been read before (see `prefix`), only the rest is in the row; it attends to the prefix's keys
and values as well.

Legend: N prompts, L tokens of a prompt, T tokens of all prompts, P tokens of a prefix, h heads, e width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from recbole_cora.llm.prefix import Prefix

#: The name under which `packed_attention` is registered.
NAME = "recbole_cora_packed"


@dataclass(frozen=True, eq=False)
class Packing:
    """The layout of a packed row.

    lengths: number of tokens of each prompt, in order.
    last: position of each prompt's last token in the row [N].
    prefixes: for each prompt, the keys and values of its prefix in each block [2, h, P, e]; empty if there are none.
    recorded: list to which each block appends its keys and values (they become prefixes); None records nothing.
    keys: for the pruned last block: "wanted" stops its forward once keys and values exist; a pair (k, v) supplies them.
    masks: cache of attention masks, which all blocks share.
    """

    lengths: tuple[int, ...]
    last: Tensor
    prefixes: tuple[Prefix, ...] = ()
    recorded: list[Tensor] | None = None
    keys: Any = None
    masks: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[int]], device: torch.device, **fields: Any) -> Packing:
        """Return the packing of N prompts, which are lists of token ids."""
        lengths = tuple(len(ids) for ids in token_ids)
        return cls(lengths, (torch.tensor(lengths).cumsum(0) - 1).to(device), **fields)

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Number of tokens of each prompt, including its prefix."""
        before = [prefix[0].shape[2] for prefix in self.prefixes] or [0] * len(self.lengths)
        return tuple(p + length for p, length in zip(before, self.lengths, strict=True))

    def positions(self) -> Tensor:
        """Return the position of each token in its prompt: [1, T]."""
        positions = [torch.arange(k - length, k) for k, length in zip(self.context_lengths, self.lengths, strict=True)]
        return torch.cat(positions).unsqueeze(0).to(self.last.device)


class _Stop(Exception):
    """Ends a forward pass as soon as a block's keys and values exist."""

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
    """Attention [1, h, T, e] -> [1, T, h, e] in which a token of a packed row sees the earlier tokens of its prompt.

    The signature is that of attention functions in `transformers`. Without `packing`, attention is causal within each
    row of a batch, or follows `attention_mask`.
    """
    options: dict[str, Any] = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    if packing is None:
        return _attend(query, key, value, mask=attention_mask, **options).transpose(1, 2), None
    if packing.recorded is not None:
        packing.recorded.append(torch.cat([key, value]))  # [2, h, T, e]
    if packing.keys == "wanted":
        raise _Stop(key, value)
    query_lengths = packing.lengths
    if packing.keys is not None:
        key, value = packing.keys
        query_lengths = (1,) * len(packing.lengths)
    columns = query.split(query_lengths, dim=2), key.split(packing.lengths, dim=2), value.split(packing.lengths, dim=2)
    parts = list(zip(*columns, strict=True))
    if packing.prefixes:
        layer: int = module.layer_idx  # type: ignore[assignment]
        before = [prefix[layer].unsqueeze(1) for prefix in packing.prefixes]  # [2, 1, h, P, e]
        parts = [
            (q, torch.cat([b[0], k], dim=2), torch.cat([b[1], v], dim=2))
            for b, (q, k, v) in zip(before, parts, strict=True)
        ]
    if query.is_cuda and query.dtype != torch.float32 and (varlen := _varlen()) is not None and not softcap:
        return varlen(parts, scaling or query.shape[3] ** -0.5, sliding_window), None
    return torch.cat(
        [_attend(q, k, v, masks=packing.masks, **options).transpose(1, 2) for q, k, v in parts], dim=1
    ), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    mask: Tensor | None = None,
    masks: dict[Any, Tensor] | None = None,
) -> Tensor:
    """Return causal attention [N, h, L, e]; the queries belong to the last of the keys, which may have fewer heads.

    Masks made here are added to `masks` for the next block.
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = mask is None and 1 < queries == keys
    if mask is None and ((window and keys > window) or 1 < queries < keys or (softcap and queries > 1)):
        masks = {} if masks is None else masks
        shape = queries, keys, window
        if shape not in masks:
            position = torch.arange(keys - queries, keys, device=query.device)[:, None]
            other = torch.arange(keys, device=query.device)
            masks[shape] = (other <= position) & (position - other < (window or keys))
        mask, causal = masks[shape], False
    if softcap:  # Gemma 2; no fused kernel supports it
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


#: A function of each prompt's queries, keys and values, the scaling and the window -> [1, T, h, e].
_Varlen = Callable[[list[tuple[Tensor, Tensor, Tensor]], float, "int | None"], Tensor]


@cache
def _varlen() -> _Varlen | None:
    """Return a CUDA kernel for prompts of different lengths: flash-attn's, or torch's (2.13); None if there is none."""
    try:
        from flash_attn import flash_attn_varlen_func

        def kernel(q: Tensor, k: Tensor, v: Tensor, cu: tuple[Any, ...], scale: float, left: int) -> Tensor:
            return flash_attn_varlen_func(q, k, v, *cu, softmax_scale=scale, causal=True, window_size=(left, 0))

    except ImportError:
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return None
        if not {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters):
            return None

        def kernel(q: Tensor, k: Tensor, v: Tensor, cu: tuple[Any, ...], scale: float, left: int) -> Tensor:
            grouped = q.shape[1] != k.shape[1]
            answer: Any = varlen_attn(q, k, v, *cu, scale=scale, window_size=(left, 0), enable_gqa=grouped)
            return answer

    def attend(parts: list[tuple[Tensor, Tensor, Tensor]], scaling: float, window: int | None) -> Tensor:
        q, k, v = (torch.cat(column, dim=2)[0].transpose(0, 1) for column in zip(*parts, strict=True))  # [T, h, e]
        queries = torch.tensor([0, *(part[0].shape[2] for part in parts)])
        keys = torch.tensor([0, *(part[1].shape[2] for part in parts)])
        ends = (lengths.cumsum(0).to(q.device, torch.int32) for lengths in (queries, keys))
        cu = (*ends, int(queries.max()), int(keys.max()))
        return kernel(q, k, v, cu, scaling, window - 1 if window else -1).unsqueeze(0)

    return attend


@contextmanager
def replaced(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the block's forward within this context; afterwards the old one, even accelerate's, is restored."""
    before = vars(block).get("forward")
    block.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del block.forward
        else:
            block.forward = before  # type: ignore[method-assign]


def pruned(block: nn.Module, packing: Packing) -> Any:
    """Return a context within which the model's last block computes the N last tokens only: [1, N, d]."""
    forward = block.forward
    tokens = sum(packing.lengths)

    def last_only(value: Any) -> Any:
        """Return an argument at the last tokens only, if one of its first two axes runs over the row's tokens."""
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
        except _Stop as stop:
            with_keys = replace(packing, keys=stop.pair)
            others = {name: last_only(value) for name, value in kwargs.items()}
            return forward(last_only(hidden), *map(last_only, args), **{**others, "packing": with_keys})
        raise RuntimeError(f"{type(block).__name__} did not pass its packing on to the attention")

    return replaced(block, read)


def recorded(block: nn.Module, read: Callable[[Packing], object], packing: Packing) -> list[Tensor]:
    """Return the keys and values of every block [2, h, T, e] for the row that `read(packing)` reads.

    Args:
        block: the model's last block, which stops as soon as its keys and values exist.
    """
    states: list[Tensor] = []
    forward = block.forward
    recording = replace(packing, recorded=states)

    def only_keys(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "packing": replace(recording, keys="wanted")})

    with replaced(block, only_keys):
        try:
            read(recording)
        except _Stop:
            return states
    raise RuntimeError(f"{type(block).__name__} did not pass its packing on to the attention")
