"""The two tokens that are the LLM's Yes and No."""

from __future__ import annotations

from typing import Any

from recbole_cora.errors import LLMError

#: The end of every prompt.
QUESTION = 'Answer with "Yes" or "No". \n#Answer:'


def answer_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[int, int]:
    """Return the token ids of the two answers after `#Answer:`, with a leading space if each is then one token.

    Raises:
        LLMError: an answer is more than one token, or both are the same.
    """
    question = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    attempts = []
    for space in (" ", ""):
        tails = []
        for answer in answers:
            ids = tokenizer(QUESTION + space + answer, add_special_tokens=False)["input_ids"]
            tails.append(ids[len(question) :] if ids[: len(question)] == question else [])
        if all(len(tail) == 1 for tail in tails) and tails[0] != tails[1]:
            return tails[0][0], tails[1][0]
        attempts += [tokenizer.convert_ids_to_tokens(tail) for tail in tails]
    raise LLMError(
        f"the answers {answers[0]!r} and {answers[1]!r} are not two different single tokens of this LLM after "
        f"'#Answer:': {attempts}; choose other answers"
    )
