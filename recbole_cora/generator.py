"""Collaborative weights generation: the CoRA paper's method, in the paper's symbols.

Legend: N pairs, M memory tokens of CF, c CF size, k queries, h hidden size of the blocks, d input width of an LLM
projection, r rank.

    (1)  e_u, e_i = f_psi(u, i)           frozen CF model; its embeddings arrive here as the memory
    (2)  k learnable queries -> self-attention -> cross-attention to the memory -> feed-forward, `blocks` times
    (3)  q = mean over the k queries      the pair's collaborative query, in R^h
    (4)  A(u,i) = reshape(q L_A) in R^(d x r),   dW(u,i) = A(u,i) L_B
    (5)  W' = W + dW(u,i)                 done by `recbole_cora.llm.deltas`, while the LLM reads the text

Notable choices:
  * one memory token by default: e_u and e_i concatenated (M = 1, size 2c);
  * post-norm blocks, as in BERT and the Q-Former from which the queries come;
  * the whole d*r vector q L_A is L2-normalised before the reshape, so A has Frobenius norm 1;
  * one A(u,i) per pair serves every layer and weight type; only L_B differs per (layer, type). Where the LLM has
    projections of other input widths (o when heads * head_dim != d, the feed-forward's down), one L_A per width;
  * L_B starts at zero: before training the LLM is the base LLM, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_cora.errors import SettingError
from recbole_cora.llm.deltas import PairWeights


class QueryBlock(nn.Module):
    """One block of (2): the queries attend to each other, then to the CF memory, then a feed-forward network."""

    def __init__(self, hidden: int, memory_size: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(
            hidden, heads, dropout, kdim=memory_size, vdim=memory_size, batch_first=True
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, feed_forward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feed_forward, hidden)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x [N, k, h], memory [N, M, memory_size] -> [N, k, h]; x may be [1, k, h], the same of every pair."""
        x = self.norms[0](x + self.dropout(self.self_attention(x, x, x, need_weights=False)[0]))
        x = self.norms[1](x + self.dropout(self._perceive(x, memory)))
        return self.norms[2](x + self.dropout(self.feed_forward(x)))

    def _perceive(self, x: Tensor, memory: Tensor) -> Tensor:
        """Cross-attention [N, k, h]; [N, 1, h], the same of every query, where there is one memory token.

        Attention to one token is that token's value, whatever the query asks. (Not in training: dropout is on the
        attention weights, of each query.)
        """
        attention = self.cross_attention
        if memory.shape[1] > 1 or self.training:
            return attention(x.expand(len(memory), -1, -1), memory, memory, need_weights=False)[0]
        values = slice(2 * attention.embed_dim, None)  # of q, k and v, stacked
        own = attention.v_proj_weight  # only where memory_size is not h
        W_v = attention.in_proj_weight[values] if own is None else own
        return attention.out_proj(F.linear(memory, W_v, attention.in_proj_bias[values]))


class CollaborativeWeightsGenerator(nn.Module):
    """From the CF memory of N pairs to their collaborative weights (the only thing that CoRA trains).

    Args:
        memory_size: size of one CF memory token (2c where e_u and e_i are concatenated).
        widths: the distinct input widths d of the targets.
        targets: (name, d_in, d_out) of each LLM projection that receives a delta.
        rank: r.
        queries: k.
        blocks, heads, hidden, feed_forward, dropout: the transformer of (2); hidden is h.
        alpha_over_rank: LoRA's alpha / r, the scale of dW.
        delta_dropout: dropout on the LLM's x before A, while training.

    Raises:
        SettingError: `hidden` is not a multiple of `heads`, or a target's width is not in `widths`.
    """

    def __init__(
        self,
        memory_size: int,
        widths: Iterable[int],
        targets: Iterable[tuple[str, int, int]],
        rank: int = 16,
        queries: int = 4,
        blocks: int = 8,
        heads: int = 8,
        hidden: int = 512,
        feed_forward: int = 3072,
        dropout: float = 0.1,
        alpha_over_rank: float = 2.0,
        delta_dropout: float = 0.05,
    ) -> None:
        super().__init__()
        widths, targets = sorted(set(widths)), list(targets)
        if hidden % heads:
            raise SettingError(f"the generator's hidden size {hidden} is not a multiple of its {heads} heads")
        for name, d_in, _ in targets:
            if d_in not in widths:
                raise SettingError(f"target '{name}' has input width {d_in}, but widths are {widths}")
        self.rank = rank
        self.scale = alpha_over_rank
        self.delta_dropout = delta_dropout
        self.target_names = [name for name, _, _ in targets]

        self.queries = nn.Parameter(torch.empty(queries, hidden))
        self.blocks = nn.ModuleList(
            QueryBlock(hidden, memory_size, heads, feed_forward, dropout) for _ in range(blocks)
        )
        self.L_A = nn.ModuleDict({str(d): nn.Linear(hidden, d * rank) for d in widths})
        self.L_B = nn.ParameterDict({_key(name): torch.zeros(rank, d_out) for name, _, d_out in targets})
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.queries, std=0.02)
        for L_A in self.L_A.values():
            assert isinstance(L_A, nn.Linear)
            nn.init.kaiming_uniform_(L_A.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(L_A.in_features)
            nn.init.uniform_(L_A.bias, -bound, bound)

    def collaborative_query(self, memory: Tensor) -> Tensor:
        """(2), (3): the CF memory [N, M, memory_size] -> q [N, h]."""
        x = self.queries.unsqueeze(0)  # [1, k, h]: until the first memory is perceived, every pair's are alike,
        if self.training:
            x = x.expand(memory.shape[0], -1, -1)  # but for dropout
        for block in self.blocks:
            x = block(x, memory)
        return x.mean(dim=1)

    def forward(self, memory: Tensor) -> PairWeights:
        """The CF memory [N, M, memory_size] -> A(u,i) per width [N, d, r] and L_B per target [r, d_out] (4)."""
        q = self.collaborative_query(memory)
        A = {}
        for width, L_A in self.L_A.items():
            a = F.normalize(L_A(q), dim=-1)  # [N, d*r], norm 1
            A[int(width)] = a.view(-1, int(width), self.rank)  # (4)
        return PairWeights(A, self.weights_B(), self.scale, self.delta_dropout, self.training)

    def weights_B(self) -> Mapping[str, Tensor]:
        """L_B by target name: [r, d_out] each."""
        return {name: self.L_B[_key(name)] for name in self.target_names}


def _key(name: str) -> str:
    """A target's name as a parameter's name, which cannot hold a dot."""
    return name.replace(".", "_")
