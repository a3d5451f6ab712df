"""Prompts as a user's turn in the chat form of an instruction-tuned LLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recbole_cora.errors import LLMError
from recbole_cora.prompts.template import Template

#: Stands for the prompt while the tokenizer's chat template is rendered.
_PLACE = "THE-PROMPT-GOES-HERE"


def in_chat(template: Template, tokenizer: Any, mode: str) -> Template:
    """Return the template as a user's turn, followed by the beginning of the assistant's turn.

    The tokenizer's chat template is rendered once, around a placeholder. The text on both sides joins the template's
    own, white space included. Titles are never rendered: the chat template is a program, and a title is data.

    Args:
        mode: "on"; "off" returns the template as it is; "auto" is "on" for a tokenizer with a chat template.

    Raises:
        LLMError: `mode` is "on" and the tokenizer has no chat template; or its chat template fails, or drops or repeats
            the user's turn.
    """
    if mode == "off" or (mode == "auto" and not tokenizer.chat_template):
        return template
    if not tokenizer.chat_template:
        raise LLMError("chat_template is on, but this LLM's tokenizer has no chat template; use --chat_template=off")
    try:
        turns = [{"role": "user", "content": _PLACE}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # the template is a program of the LLM's publisher and can raise anything
        first_line = (str(error).strip().splitlines() or ["no message"])[0][:200]
        raise LLMError(
            f"the tokenizer's chat template fails ({type(error).__name__}: {first_line}); use --chat_template=off"
        ) from None
    if text.count(_PLACE) != 1:
        raise LLMError(
            f"the tokenizer's chat template shows the user's turn {text.count(_PLACE)} times; use --chat_template=off"
        )
    before, after = text.split(_PLACE)
    return replace(template, before=before + template.before, after=template.after + after, is_chat=True)
