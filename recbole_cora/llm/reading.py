"""The ways of reading prompts. Padded reading is the reference; a faster way is used only if its states match."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recbole_cora.llm import hub
from recbole_cora.llm.packed import NAME

log = logging.getLogger()


@dataclass(frozen=True)
class Reading:
    """A way of reading prompts; the default is a padded batch.

    packed: the prompts follow one another in one row, without padding.
    pruned: the last block is read at each prompt's last token only; needs `packed`.
    shares_prefixes: the tokens before a question are read once for all prompts that share them; needs `packed`.
    """

    packed: bool = False
    pruned: bool = False
    shares_prefixes: bool = False

    def __str__(self) -> str:
        return ("packed, last block pruned" if self.pruned else "packed") if self.packed else "padded"


PADDED = Reading()

#: The log line for each way that fails.
_SWITCHED_OFF = {
    "packed": "prompts are read in padded batches, not packed",
    "pruned": "the last block is not pruned",
    "shares_prefixes": "prefixes are not shared",
}


@torch.no_grad()
def fastest_reading(model: Any, name: str, has_blocks: bool, read: Callable[[Reading], Tensor]) -> Reading:
    """Return the fastest way of reading whose states match those of padded reading; the log names what failed.

    A way fails if the model's own code reshapes its input, builds its own mask, or keeps no `layer_idx`.

    Args:
        model: the Hugging Face model; its attention becomes `packed_attention` if packing works.
        name: for the log.
        has_blocks: True if the model's decoder blocks are known; without them only packing is tried.
        read: reads a few probe prompts in a given way and returns the states of their last tokens [N, d].
    """
    attention, padded = model.config._attn_implementation, read(PADDED)
    try:
        model.set_attn_implementation(NAME)
    except hub.FAILURES as error:
        log.info(f"{name}: {_SWITCHED_OFF['packed']} ({hub.line_of(error)})")
        return PADDED
    reading = PADDED
    for way in ("packed", "pruned", "shares_prefixes") if has_blocks else ("packed",):
        faster = replace(reading, **{way: True})
        try:
            failure = "" if alike(model, read(faster), padded) else "its scores differ from padded reading"
        except hub.FAILURES as error:
            failure = hub.line_of(error)
        if not failure:
            reading = faster
            continue
        log.log(logging.INFO if way == "packed" else logging.DEBUG, f"{name}: {_SWITCHED_OFF[way]} ({failure})")
        if way == "packed":
            model.set_attn_implementation(attention)
            break
    return reading


def alike(model: Any, ours: Tensor, theirs: Tensor) -> bool:
    """Return True if two results agree up to the rounding of the dtype, or of a quantised model's arithmetic."""
    coarse = theirs.dtype != torch.float32 or getattr(model, "is_quantized", False)
    scale = max(float(theirs.abs().max()), 1e-3)
    return torch.allclose(ours.float(), theirs.float(), atol=(0.05 if coarse else 1e-3) * scale, rtol=0)
