"""Packed prompts: N of them as one row of T tokens, so that no padding is computed, and the last block read only where
the answer is.

`transformers` lets an attention function be registered and hands it whatever a model's forward is given; ours is given
a `Packing` and attends within each prompt. Without one it is ordinary causal attention.

The last block is pruned: of all T tokens its keys and values are needed, of the N last ones everything else. Its own
forward is called twice, without knowledge of what is in it: with all tokens, stopped as soon as keys and values are
there; then with the last tokens, which attend to these.

A prompt's beginning may have been read before (see `prefix`): then only the rest is in the row, and attends to the
beginning's keys and values too.

Legend: N prompts, T tokens of all of them, P of a prefix, h heads, e width of a head.
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
    """Which tokens of the row belong together.

    lengths: tokens of each prompt in the row, in order.
    last: place of each prompt's last token in the row [N].
    prefixes: of what comes before each prompt's tokens: keys and values of each block [2, h, P, e]; empty: nothing.
    recorded: keys and values of each block, added as they are read (to make prefixes of them); None: not wanted.
    keys: set while the last block is read: "wanted" stops its forward with the keys and values; (k, v) are then those.
    masks: made once, for every block.
    """

    lengths: tuple[int, ...]
    last: Tensor
    prefixes: tuple[Prefix, ...] = ()
    recorded: list[Tensor] | None = None
    keys: Any = None
    masks: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[int]], device: torch.device, **fields: Any) -> Packing:
        """Of prompts as token ids."""
        lengths = tuple(len(ids) for ids in token_ids)
        return cls(lengths, (torch.tensor(lengths).cumsum(0) - 1).to(device), **fields)

    @property
    def known(self) -> tuple[int, ...]:
        """Tokens of each prompt, with its prefix."""
        before = [prefix[0].shape[2] for prefix in self.prefixes] or [0] * len(self.lengths)
        return tuple(p + length for p, length in zip(before, self.lengths, strict=True))

    def positions(self) -> Tensor:
        """Position of each token in its prompt: [1, T]."""
        places = [torch.arange(k - length, k) for k, length in zip(self.known, self.lengths, strict=True)]
        return torch.cat(places).unsqueeze(0).to(self.last.device)


class _Stop(Exception):
    """Leaves a forward as soon as a block's keys and values are there."""

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
    if packing.recorded is not None:
        packing.recorded.append(torch.cat([key, value]))  # [2, h, T, e]
    if packing.keys == "wanted":
        raise _Stop(key, value)
    asked = packing.lengths
    if packing.keys is not None:
        key, value = packing.keys
        asked = (1,) * len(packing.lengths)
    columns = query.split(asked, dim=2), key.split(packing.lengths, dim=2), value.split(packing.lengths, dim=2)
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
    """Causal attention where the queries are the last of the keys: [N, h, L, e]; keys may have fewer heads.

    `masks` keeps what is made here for the next block.
    """
    asked, known = query.shape[2], key.shape[2]
    causal = mask is None and 1 < asked == known
    if mask is None and ((window and known > window) or 1 < asked < known or (softcap and asked > 1)):
        masks = {} if masks is None else masks
        shape = asked, known, window
        if shape not in masks:
            place = torch.arange(known - asked, known, device=query.device)[:, None]
            other = torch.arange(known, device=query.device)
            masks[shape] = (other <= place) & (place - other < (window or known))
        mask, causal = masks[shape], False
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


#: Queries, keys and values of each prompt, scaling, window -> [1, T, h, e].
_Varlen = Callable[[list[tuple[Tensor, Tensor, Tensor]], float, "int | None"], Tensor]


@cache
def _varlen() -> _Varlen | None:
    """One kernel for prompts of all lengths, on CUDA: flash-attn's where it is installed, else torch's own (2.13)."""
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
        asked = torch.tensor([0, *(part[0].shape[2] for part in parts)])
        known = torch.tensor([0, *(part[1].shape[2] for part in parts)])
        ends = (lengths.cumsum(0).to(q.device, torch.int32) for lengths in (asked, known))
        cu = (*ends, int(asked.max()), int(known.max()))
        return kernel(q, k, v, cu, scaling, window - 1 if window else -1).unsqueeze(0)

    return attend


@contextmanager
def replaced(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within this context `forward` is the block's; what was there before, accelerate's own too, comes back."""
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
    """Context within which the block, the model's last, answers of the N last tokens only: [1, N, d]."""
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
        except _Stop as stop:
            found = replace(packing, keys=stop.pair)
            others = {name: last_only(value) for name, value in kwargs.items()}
            return forward(last_only(hidden), *map(last_only, args), **{**others, "packing": found})
        raise RuntimeError(f"{type(block).__name__} did not hand its packing to the attention")

    return replaced(block, read)


def recorded(block: nn.Module, read: Callable[[Packing], object], packing: Packing) -> list[Tensor]:
    """Keys and values of every block [2, h, T, e], where `read(packing)` reads a row whose last block is `block`.

    The last block is left as soon as its own are there.
    """
    found: list[Tensor] = []
    forward = block.forward
    wanted = replace(packing, recorded=found)

    def only_keys(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "packing": replace(wanted, keys="wanted")})

    with replaced(block, only_keys):
        try:
            read(wanted)
        except _Stop:
            return found
    raise RuntimeError(f"{type(block).__name__} did not hand its packing to the attention")
