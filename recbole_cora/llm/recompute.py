"""Gradient checkpointing that keeps the deltas: a block's activations are recomputed in the backward pass.

The checkpointing of `transformers` does not work here: it acts only on a model in training mode, and it would recompute
a block without the deltas, whose hooks are removed by then.
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
    """Make the blocks keep only their inputs for the backward pass within this context.

    Args:
        blocks: each block, and a function that returns the context in which to recompute its activations.
    """
    with ExitStack() as stack:
        for block, recompute_context in blocks:
            stack.enter_context(replaced(block, _checkpointed(block.forward, recompute_context)))
        yield


def _checkpointed(forward: Callable[..., Any], recompute_context: Callable[[], Any]) -> Callable[..., Any]:
    def read(*args: Any, **kwargs: Any) -> Any:
        contexts = lambda: (nullcontext(), recompute_context())  # noqa: E731
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return read
