"""Log-probabilities of given tokens under a frozen LLM, with one conditioning for all texts or none.

Every token of a text is read, so the last block is not pruned. A beginning that several texts share (the prompt of a
multiple-choice question) is read once. Logits are computed in small pieces: all of them would be [T, vocabulary].

Legend: N texts, L tokens of one, T tokens of a packed row, d hidden size, M tokens whose log-probability is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recbole_cora.errors import LLMError
from recbole_cora.llm.conditioning import NOTHING, Conditioning
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.grouping import consecutive, prefix_key
from recbole_cora.llm.packed import Packing, recorded
from recbole_cora.llm.prefix import Prefix

#: The most logits that exist at one time, of all tokens together: 64 MB in float32.
_MOST_LOGITS = 1 << 24


def text_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of plain texts [L each]; BOS comes first if the tokenizer itself adds it."""
    bos, first = tokenizer.bos_token_id, tokenizer("a")["input_ids"][:1]
    before = [bos] if bos is not None and first == [bos] else []
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [[*before, *row] for row in ids]


@torch.no_grad()
def log_probs(
    llm: FrozenLLM,
    texts: Sequence[Sequence[int]],
    starts: Sequence[int],
    conditioning: Conditioning = NOTHING,
) -> list[Tensor]:
    """Return log p(token | all earlier tokens of its text) for each text's tokens from its start on.

    Args:
        texts: token ids of N texts, of at most `llm.max_tokens` tokens each.
        starts: place of the first token to score in each text, from 1: the first token has no earlier one.
        conditioning: a LoRA, or the weights of one pair. It acts on every token of every text.

    Returns:
        N tensors [L - start], float32, on the CPU: natural logarithms.

    Raises:
        LLMError: a text is too long, a start is outside its text, or the conditioning has slots or starts.
    """
    if conditioning.slots is not None or conditioning.starts is not None:
        raise LLMError("the likelihood of plain text needs weights that act on every token: no slots and no starts")
    for ids, start in zip(texts, starts, strict=True):
        if len(ids) > llm.max_tokens or not 1 <= start < len(ids):
            raise LLMError(
                f"a text of {len(ids)} tokens is scored from token {start}; expected at most {llm.max_tokens} tokens, "
                "and a start after the first and before the last one's end"
            )
    values: list[Tensor] = [torch.empty(0)] * len(texts)
    for group, states, skipped in _states(llm, texts, starts, conditioning):
        # The state before a token predicts it. Texts follow one another in `states`, without their first tokens.
        lengths = [len(texts[n]) - skip for n, skip in zip(group, skipped, strict=True)]
        offsets = [0, *accumulate(lengths)]
        places = torch.cat(
            [
                torch.arange(offset + starts[n] - skip - 1, offset + length - 1)
                for n, offset, skip, length in zip(group, offsets[:-1], skipped, lengths, strict=True)
            ]
        )
        targets = torch.tensor([token for n in group for token in list(texts[n])[starts[n] :]])
        scored = _at(llm, states[places.to(states.device)], targets)
        for n, piece in zip(group, scored.split([len(texts[n]) - starts[n] for n in group]), strict=True):
            values[n] = piece
    return values


def _states(
    llm: FrozenLLM, texts: Sequence[Sequence[int]], starts: Sequence[int], conditioning: Conditioning
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Read all texts in groups of about `llm.batch_tokens` tokens.

    Yields:
        The texts' indices in a group; their last-block states [T, d], one text after the other; and the number of first
        tokens of each text that have no state there, because they are in a shared prefix.
    """
    prefixes = [prefix_key(ids[: start - 1]) for ids, start in zip(texts, starts, strict=True)]
    families: dict[bytes, list[int]] = {}
    for n, prefix in enumerate(prefixes):
        families.setdefault(prefix, []).append(n)
    shares = llm.reading.shares_prefixes
    shared = [n for family in families.values() if shares and len(family) > 1 and starts[family[0]] > 1 for n in family]
    for group in consecutive(shared, partial(_prefixed_fits, llm.batch_tokens, texts, starts, prefixes)):
        yield (
            group,
            _read_after_prefixes(llm, texts, starts, group, prefixes, conditioning),
            [starts[n] - 1 for n in group],
        )
    alone = sorted(set(range(len(texts))) - set(shared))
    packed = llm.reading.packed
    if not packed:
        alone.sort(key=lambda n: len(texts[n]))

    def fits(group: list[int]) -> bool:
        lengths = [len(texts[n]) for n in group]
        return (sum(lengths) if packed else len(lengths) * max(lengths)) <= llm.batch_tokens

    for group in consecutive(alone, fits):
        batch = [texts[n] for n in group]
        yield group, _read(llm, batch, conditioning.select([0] * len(group))), [0] * len(group)


def _prefixed_fits(
    most: int, texts: Sequence[Sequence[int]], starts: Sequence[int], prefixes: Sequence[bytes], group: list[int]
) -> bool:
    """Return whether a group has at most `most` tokens in its distinct prefixes, and at most `most` after them."""
    distinct = {prefixes[n]: starts[n] - 1 for n in group}
    return sum(distinct.values()) <= most and sum(len(texts[n]) - starts[n] + 1 for n in group) <= most


def _read_after_prefixes(
    llm: FrozenLLM,
    texts: Sequence[Sequence[int]],
    starts: Sequence[int],
    group: Sequence[int],
    prefixes: Sequence[bytes],
    conditioning: Conditioning,
) -> Tensor:
    """Read the distinct prefixes of a group, then the rest of its texts; return the states of the rests [T, d]."""
    distinct = {prefixes[n]: texts[n][: starts[n] - 1] for n in group}
    batch = list(distinct.values())
    packing = Packing.of(batch, llm.device)
    with conditioning.select([0] * len(batch)).applied(packing.lengths, None):
        blocks = recorded(llm.blocks[-1], lambda packing: _forward(llm, batch, packing), packing)
    pieces = zip(*(block.split(packing.lengths, dim=2) for block in blocks), strict=True)
    keys: dict[bytes, Prefix] = dict(zip(distinct, pieces, strict=True))
    rests = [texts[n][starts[n] - 1 :] for n in group]
    return _read(llm, rests, conditioning.select([0] * len(group)), tuple(keys[prefixes[n]] for n in group))


def _read(
    llm: FrozenLLM,
    texts: Sequence[Sequence[int]],
    conditioning: Conditioning,
    prefixes: tuple[Prefix, ...] = (),
) -> Tensor:
    """Return the last block's states of all texts' tokens [T, d], one text after the other."""
    if llm.reading.packed:
        packing = Packing.of(texts, llm.device, prefixes=prefixes)
        with conditioning.applied(packing.lengths, None):
            return _forward(llm, texts, packing)
    lengths = torch.tensor([len(ids) for ids in texts])
    padded = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)  # at the right: no token sees the padding
    for n, ids in enumerate(texts):
        padded[n, : len(ids)] = torch.as_tensor(list(ids))
    with conditioning.applied(None, None):
        states: Tensor = llm.model.base_model(input_ids=padded.to(llm.device), use_cache=False).last_hidden_state
    return states[(torch.arange(padded.shape[1]) < lengths[:, None]).to(states.device)]


def _forward(llm: FrozenLLM, texts: Sequence[Sequence[int]], packing: Packing) -> Tensor:
    row = torch.tensor([[token for ids in texts for token in ids]], device=llm.device)
    states: Tensor = llm.model.base_model(
        input_ids=row, position_ids=packing.positions(), use_cache=False, packing=packing
    ).last_hidden_state[0]
    return states


def _at(llm: FrozenLLM, states: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target [M] given the state before it [M, d], by a float32 log-softmax."""
    head, values = llm.model.get_output_embeddings(), []
    cap = getattr(llm.model.config, "final_logit_softcapping", None)  # Gemma 2
    rows = max(1, _MOST_LOGITS // int(head.weight.shape[0]))
    for some_states, some_targets in zip(states.split(rows), targets.split(rows), strict=True):
        logits = head(some_states).float()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        values.append(-cross_entropy(logits, some_targets.to(logits.device), reduction="none").cpu())
    return torch.cat(values)
