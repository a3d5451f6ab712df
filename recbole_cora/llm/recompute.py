"""Gradient checkpointing that keeps the deltas: a block's activations are computed again when its gradient is.

`transformers`' own would read the block again without the deltas, whose hooks are gone by then; and not at all here, as
it only acts on a model in training, which a frozen one never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_cora.llm.packed import replaced


@contextmanager
def recomputed(blocks: Iterable[tuple[nn.Module, Callable[[], AbstractContextManager[Any]]]]) -> Iterator[None]:
    """Within this context the blocks keep only their inputs for the backward pass.

    Args:
        blocks: each with the context in which it is to be read again.
    """
    with ExitStack() as stack:
        for block, again in blocks:
            stack.enter_context(replaced(block, _checkpointed(block.forward, again)))
        yield


def _checkpointed(forward: Callable[..., Any], again: Callable[[], Any]) -> Callable[..., Any]:
    def read(*args: Any, **kwargs: Any) -> Any:
        contexts = lambda: (nullcontext(), again())  # noqa: E731
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return read
