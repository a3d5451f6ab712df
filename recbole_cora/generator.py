"""The collaborative weights generator: the CoRA paper's method, in the paper's symbols and equation numbers.

Legend: N pairs, M memory tokens of CF, c CF size, k queries, h hidden size of the blocks, d input width of an LLM
projection, r rank.

    (1)  e_u, e_i = f_psi(u, i)           the frozen CF model; its embeddings arrive here as the memory
         q                                the pair's collaborative query, in R^h: k learnable queries attend to each
                                          other, then to the memory, then pass a feed-forward network, `blocks` times;
                                          the k outputs are averaged
    (4)  A(u,i) = reshape(q L_A) in R^(d x r),   dW(u,i) = A(u,i) L_B
    (5)  W' = W + dW(u,i)                 applied by `recbole_cora.llm.deltas`
    (6)  the LLM with W' reads the text   `recbole_cora.llm.frozen`
    (7)  binary cross-entropy             `recbole_cora.models.cora`

The paper's (2) and (3) are the LLM's own attention and feed-forward network. Choices where the paper is silent:

  * One memory token by default: e_u and e_i concatenated (M = 1, size 2c).
  * Post-norm blocks, as in BERT and the Q-Former that the queries come from.
  * The whole d*r vector q L_A is L2-normalised before the reshape, so A has Frobenius norm 1.
  * One A(u,i) per pair serves every layer and weight type; only L_B differs per (layer, type). If the LLM has
    projections of other input widths (o when heads * head_dim != d, the feed-forward's down), each width has its L_A.
  * L_B starts at zero: an untrained generator leaves the base LLM as it is, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_cora.errors import SettingError
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import WeightTarget


class QueryBlock(nn.Module):
    """Self-attention among the queries, cross-attention to the CF memory, then a feed-forward network."""

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
        """Map x [N, k, h] and memory [N, M, memory_size] to [N, k, h]; x may be [1, k, h] if all pairs share it."""
        x = self.norms[0](x + self.dropout(self.self_attention(x, x, x, need_weights=False)[0]))
        x = self.norms[1](x + self.dropout(self._perceive(x, memory)))
        return self.norms[2](x + self.dropout(self.feed_forward(x)))

    def _perceive(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the cross-attention [N, k, h], or [N, 1, h] if it is the same for all queries.

        Attention to a single memory token returns that token's value for every query. In training it does not, because
        dropout acts on each query's attention weights.
        """
        attention = self.cross_attention
        if memory.shape[1] > 1 or self.training:
            return attention(x.expand(len(memory), -1, -1), memory, memory, need_weights=False)[0]
        values = slice(2 * attention.embed_dim, None)  # the last third of the stacked q, k and v
        W_v = attention.v_proj_weight  # None if memory_size is h: then the three weights are stacked
        W_v = attention.in_proj_weight[values] if W_v is None else W_v
        return attention.out_proj(F.linear(memory, W_v, attention.in_proj_bias[values]))


class CollaborativeWeightsGenerator(nn.Module):
    """Generates the collaborative weights of N pairs from their CF memory; the only part that CoRA trains.

    Args:
        memory_size: size of one CF memory token (2c if e_u and e_i are concatenated).
        targets: the LLM projections that receive a delta, from `weight_targets`.
        rank: r.
        queries: k.
        blocks, heads, hidden, feed_forward, dropout: the transformer's; hidden is h.
        alpha_over_rank: LoRA's alpha / r, the scale of dW.
        delta_dropout: dropout on the LLM's x before A, in training only.

    Raises:
        SettingError: `hidden` is not a multiple of `heads`.
    """

    def __init__(
        self,
        memory_size: int,
        targets: Sequence[WeightTarget],
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
        if hidden % heads:
            raise SettingError(f"the generator's hidden size {hidden} is not a multiple of its {heads} heads")
        self.rank = rank
        self.scale = alpha_over_rank
        self.delta_dropout = delta_dropout
        self.target_names = [target.name for target in targets]

        self.queries = nn.Parameter(torch.empty(queries, hidden))
        self.blocks = nn.ModuleList(
            QueryBlock(hidden, memory_size, heads, feed_forward, dropout) for _ in range(blocks)
        )
        widths = sorted({target.d_in for target in targets})
        self.L_A = nn.ModuleDict({str(d): nn.Linear(hidden, d * rank) for d in widths})
        self.L_B = nn.ParameterDict({_key(target.name): torch.zeros(rank, target.d_out) for target in targets})
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.queries, std=0.02)
        for L_A in self.L_A.values():
            assert isinstance(L_A, nn.Linear)
            nn.init.kaiming_uniform_(L_A.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(L_A.in_features)
            nn.init.uniform_(L_A.bias, -bound, bound)

    def collaborative_query(self, memory: Tensor) -> Tensor:
        """Return the pairs' collaborative queries q [N, h] for the CF memory [N, M, memory_size]."""
        x = self.queries.unsqueeze(0)  # [1, k, h]; all pairs share it until the first cross-attention
        if self.training:
            x = x.expand(memory.shape[0], -1, -1)  # dropout differs between pairs
        for block in self.blocks:
            x = block(x, memory)
        return x.mean(dim=1)

    def forward(self, memory: Tensor) -> PairWeights:
        """Return the weights of the pairs with CF memory [N, M, memory_size], eq. (4).

        A(u,i) is [N, d, r] for each input width d; L_B is [r, d_out] for each target.
        """
        q = self.collaborative_query(memory)
        A = {}
        for width, L_A in self.L_A.items():
            a = F.normalize(L_A(q), dim=-1)  # [N, d*r], norm 1
            A[int(width)] = a.view(-1, int(width), self.rank)  # (4)
        return PairWeights(A, self.weights_B(), self.scale, self.delta_dropout, self.training)

    def weights_B(self) -> Mapping[str, Tensor]:
        """Return L_B by target name: [r, d_out] each."""
        return {name: self.L_B[_key(name)] for name in self.target_names}


def _key(name: str) -> str:
    """Return a target's name as a parameter's name, which cannot hold a dot."""
    return name.replace(".", "_")
