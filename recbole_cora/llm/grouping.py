"""The division of prompts into groups that are read in one forward pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from recbole_cora.llm.reading import Reading


def groups(
    token_ids: Sequence[Sequence[int]], starts: Sequence[int] | None, reading: Reading, most: int
) -> Iterator[list[int]]:
    """Divide N prompts into groups of at most `most` tokens.

    Padded prompts are grouped by length; packed prompts in their order; prompts that may share a prefix, by prefix.
    With shared prefixes, `most` limits the tokens after them, and four times `most` those of the distinct prefixes.

    Args:
        token_ids: the prompts.
        starts: the token at which each prompt's question begins; None means that nothing can be shared.

    Yields:
        Indices of the prompts of a group.
    """
    lengths = [len(ids) for ids in token_ids]
    indices = range(len(lengths))
    if not reading.packed:
        by_length = sorted(indices, key=lengths.__getitem__)
        yield from consecutive(by_length, lambda group: len(group) * lengths[group[-1]] <= most)
        return
    if starts is None or not reading.shares_prefixes:
        yield from consecutive(indices, lambda group: sum(lengths[n] for n in group) <= most)
        return
    prefixes = [prefix_key(ids[:start]) for ids, start in zip(token_ids, starts, strict=True)]

    def fits(group: list[int]) -> bool:
        prefix_tokens = {prefixes[n]: starts[n] for n in group}
        return sum(lengths[n] - starts[n] for n in group) <= most and sum(prefix_tokens.values()) <= 4 * most

    yield from consecutive(sorted(indices, key=prefixes.__getitem__), fits)


def consecutive(order: Sequence[int], fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """Cut `order` into runs that fit, with at least one index each."""
    group: list[int] = []
    for n in order:
        if group and not fits([*group, n]):
            yield group
            group = []
        group.append(n)
    if group:
        yield group


def prefix_key(ids: Sequence[int]) -> bytes:
    """Return the token ids as bytes, to look up a prefix by."""
    return np.asarray(ids, dtype=np.int32).tobytes()
