"""In which ways a model can be read: what it answers padded is the measure, the faster ways must answer the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recbole_cora.errors import LLMError
from recbole_cora.llm import hub
from recbole_cora.llm.answers import QUESTION
from recbole_cora.llm.packed import NAME

if TYPE_CHECKING:
    from recbole_cora.llm.frozen import FrozenLLM

log = logging.getLogger()


@torch.no_grad()
def check_head(llm: FrozenLLM) -> None:
    """The two rows must be what the model itself answers, and a later token must not change an earlier one.

    So a bidirectional model, or a head with a scaling that `answer_logits` does not know, is refused here instead of
    giving wrong scores in silence.

    Raises:
        LLMError: it is such a model, has no language head, or cannot be run.
    """
    if llm.model.get_output_embeddings() is None:
        raise LLMError(f"'{llm.name}' has no language head; expected a causal LM")
    ids = llm.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    longer = torch.tensor([[*ids, ids[0], ids[0]]], device=llm.device)
    try:
        theirs = llm.model(input_ids=longer, use_cache=False).logits[0, len(ids) - 1, list(llm.answer_ids)]
    except hub.FAILURES as error:
        raise LLMError(f"'{llm.name}' cannot be run here: {hub.line_of(error)}") from None
    ours = llm.answer_logits(llm.read([ids]))[0].to(theirs.device)
    if not _alike(llm, ours, theirs):
        raise LLMError(
            f"'{llm.name}' ({llm.model.config.model_type}) does not read left to right, or scales its logits "
            f"in a way unknown here; expected a causal LM with a plain language head"
        )


@torch.no_grad()
def take_faster_ways(llm: FrozenLLM) -> None:
    """Take each faster way of reading in which the model answers as it does padded; the log says which it does not.

    A way fails where a model's own code reshapes what it is given, masks by itself, or keeps no `layer_idx`.
    """
    ids = llm.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    prompts = [ids, ids[:3], ids[1:]]
    before, padded = llm.model.config._attn_implementation, llm.read(prompts)

    def works(way: str, read: Callable[[], Tensor]) -> bool:
        setattr(llm, way, True)
        try:
            why = "" if _alike(llm, read(), padded) else "it answers otherwise then"
        except hub.FAILURES as error:
            why = hub.line_of(error)
        setattr(llm, way, not why)
        if why:
            level = logging.INFO if way == "packed" else logging.DEBUG
            log.log(level, f"{llm.name}: not {way.replace('_', ' ')} ({why}), but read in the slower way")
        return not why

    try:
        llm.model.set_attn_implementation(NAME)
    except hub.FAILURES as error:
        log.info(f"{llm.name}: prompts are read in padded batches, not packed ({hub.line_of(error)})")
        return
    if not works("packed", lambda: llm.read(prompts)):
        llm.model.set_attn_implementation(before)
    elif llm.blocks:
        works("pruned", lambda: llm.read(prompts))
        works("shares_prefixes", lambda: llm.read(prompts, starts=[2, 1, 4]))


def _alike(llm: FrozenLLM, ours: Tensor, theirs: Tensor) -> bool:
    """Equal up to the rounding of the dtype, or of what a quantised model rounds on the way."""
    coarse = theirs.dtype != torch.float32 or getattr(llm.model, "is_quantized", False)
    scale = max(float(theirs.abs().max()), 1e-3)
    return torch.allclose(ours.float(), theirs.float(), atol=(0.05 if coarse else 1e-3) * scale, rtol=0)
