"""The deltas dW(u,i) = A(u,i) L_B, added to a frozen LLM while it reads a batch of prompts: equation (5).

Legend: N pairs, L tokens, T tokens of a packed row, d_in and d_out the widths of one projection, r rank.

`W' = W + dW(u,i)` is never formed: a forward hook adds the two thin products `scale * (x A(u,i)) B` to each
projection's output, with a separate A for each pair. The pairs' tokens are the rows of a padded batch [N, L, d], or
follow one another in one packed row [1, T, d]. The LLM's weights are never written, so a delta cannot outlive its
context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_cora.errors import LLMError
from recbole_cora.llm.families import WeightTarget


@dataclass(frozen=True, eq=False)
class PairWeights:
    """The collaborative weights of N pairs, as the two factors of equation (4).

    A: input width d_in -> [N, d_in, r]; one A(u,i) serves every layer and weight type of that width.
    B: target name -> [r, d_out]; L_B, which all pairs share.
    scale: alpha / r.
    dropout: applied to x before A, only if `training`.
    """

    A: dict[int, Tensor]
    B: Mapping[str, Tensor]
    scale: float
    dropout: float = 0.0
    training: bool = False

    def select(self, index: Sequence[int] | Tensor) -> PairWeights:
        """Return the weights of the pairs at `index`, in that order."""
        rows = torch.as_tensor(index, dtype=torch.long)
        return replace(self, A={width: A[rows.to(A.device)] for width, A in self.A.items()})

    def delta(self, target: WeightTarget, n: int) -> Tensor:
        """Return dW of pair `n` at `target` as a matrix [d_in, d_out] for checks and export: y = x W^T + x dW."""
        return self.scale * self.A[target.d_in][n] @ self.B[target.name]


@contextmanager
def attached(
    targets: Sequence[WeightTarget],
    weights: PairWeights,
    lengths: Sequence[int] | None = None,
    acting: Tensor | None = None,
) -> Iterator[None]:
    """Add `scale * (x A) B` to each target's output within this context, using pair n's A on pair n's tokens.

    The hooks are removed at the end, also after an exception.

    Args:
        lengths: number of tokens of each pair in a packed row; None means a padded batch, one row for each pair.
        acting: mask of the tokens on which the weights act: [N, L, 1], or packed [1, T, 1]; None means every token.

    Raises:
        LLMError: a target has no A of its width or no B of its shape, or a projection's input has another shape.
    """
    by_module: dict[int, list[WeightTarget]] = {}
    for target in targets:
        _check(target, weights)
        by_module.setdefault(id(target.module), []).append(target)
    thin = _ThinProduct(weights, lengths, acting)
    handles = []
    try:
        for group in by_module.values():
            handles.append(group[0].module.register_forward_hook(_hook(group, weights, thin)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        thin.forget()


class _ThinProduct:
    """Compute x A once for all projections that read the same x (q, k and v of a block; fused projections)."""

    def __init__(self, weights: PairWeights, lengths: Sequence[int] | None, acting: Tensor | None) -> None:
        A = next(iter(weights.A.values()))
        self.weights = weights
        self._lengths = list(lengths) if lengths else None
        # End of each pair's tokens in the row.
        self._ends = torch.tensor(lengths, device=A.device).cumsum(0).int() if lengths else None
        self._acting = acting
        self._moved: dict[Any, Tensor] = {}
        self.forget()

    def forget(self) -> None:
        self._x: Tensor | None = None
        self._product: Tensor | None = None

    def __call__(self, x: Tensor, width: int) -> Tensor:
        """Map [N, L, d_in] to [N, L, r], or packed [1, T, d_in] to [1, T, r], in x's dtype."""
        if x is not self._x or self._product is None:  # x itself is held: its id could be reused by a later tensor
            A = self._factor(width, x)
            dropped = self.weights.training and self.weights.dropout > 0
            wide = F.dropout(x, self.weights.dropout) if dropped else x
            product = self._batched(wide, A) if self._lengths is None else self._packed(wide, A)
            # If the shapes differ, x has the last tokens only, and the weights act on all of them.
            if self._acting is not None and self._acting.shape[:2] == x.shape[:2]:
                product = product * self._acting.to(product)
            self._x, self._product = x, product
        return self._product

    def _factor(self, width: int, x: Tensor) -> Tensor:
        """Return A of that width in x's dtype and on its device; it is moved only once."""
        key = width, x.dtype, x.device
        if key not in self._moved:
            self._moved[key] = self.weights.A[width].to(x)
        return self._moved[key]

    def _batched(self, x: Tensor, A: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[0] != A.shape[0]:
            raise LLMError(
                f"the weights are for {A.shape[0]} pairs, but a projection reads an input of shape "
                f"{tuple(x.shape)}; expected [{A.shape[0]}, tokens, {A.shape[1]}]"
            )
        return torch.bmm(x, A)

    def _packed(self, x: Tensor, A: Tensor) -> Tensor:
        assert self._lengths is not None and self._ends is not None
        if x.shape[:2] == (1, len(A)):  # the pruned last block reads the N last tokens only (see `packed`)
            return torch.bmm(x.transpose(0, 1), A).transpose(0, 1)
        if x.shape[0] != 1 or x.shape[1] != sum(self._lengths) or len(self._lengths) != len(A):
            raise LLMError(
                f"the weights are for {len(A)} pairs, packed in {sum(self._lengths)} tokens, but a projection reads an "
                f"input of shape {tuple(x.shape)}"
            )
        # The kernels of grouped_mm need this alignment.
        if A.shape[2] * A.element_size() % 16 == 0 and A.shape[1] * A.element_size() % 16 == 0:
            return F.grouped_mm(x[0], A, offs=self._ends.to(x.device)).unsqueeze(0)
        pieces = zip(x[0].split(self._lengths), A.unbind(), strict=True)
        return torch.cat([piece @ a for piece, a in pieces]).unsqueeze(0)


def _hook(group: list[WeightTarget], weights: PairWeights, thin: _ThinProduct) -> Callable[..., Tensor]:
    def add_deltas(module: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        product = thin(inputs[0], group[0].d_in)
        for target in group:
            B = weights.B[target.name].to(product)
            if target.rows is None and type(module) is nn.Linear:  # nothing else uses y yet: change it in place
                y.view(-1, target.d_out).addmm_(product.reshape(-1, B.shape[0]), B, alpha=weights.scale)
                continue
            delta = (weights.scale * (product @ B)).to(y.dtype)  # [N, L, d_out]
            y = y + delta if target.rows is None else y.index_add(-1, target.rows.to(y.device), delta)
        return y

    return add_deltas


def _check(target: WeightTarget, weights: PairWeights) -> None:
    A, B = weights.A.get(target.d_in), weights.B.get(target.name)
    if A is None or B is None:
        missing = f"A of input width {target.d_in}" if A is None else f"B named '{target.name}'"
        raise LLMError(f"the weights have no {missing}; make the generator from this LLM's weight_targets")
    if tuple(B.shape) != (A.shape[2], target.d_out):
        raise LLMError(
            f"B of '{target.name}' has shape {tuple(B.shape)}, expected {(A.shape[2], target.d_out)}; "
            f"make the generator from this LLM's weight_targets"
        )
