"""The two tokens that are the LLM's Yes and No."""

from __future__ import annotations

from typing import Any

from recbole_cora.errors import LLMError

#: The end of the paper's prompt.
QUESTION = 'Answer with "Yes" or "No". \n#Answer:'


def answer_tokens(tokenizer: Any, answers: tuple[str, str], prompt_end: str = QUESTION) -> tuple[int, int]:
    """Return the token ids of the two answers as they follow a prompt, with or without a space before them.

    After white space, such as the line break that opens an assistant's turn, they are tried without a space first;
    after other text, such as `#Answer:`, with one.

    Args:
        answers: the positive and the negative answer.
        prompt_end: the text after the title, which every prompt ends with.

    Raises:
        LLMError: an answer is more than one token, or both are the same.
    """
    question = tokenizer(prompt_end, add_special_tokens=False)["input_ids"]
    attempts = []
    for space in ("", " ") if prompt_end[-1:].isspace() else (" ", ""):
        tails = []
        for answer in answers:
            ids = tokenizer(prompt_end + space + answer, add_special_tokens=False)["input_ids"]
            tails.append(ids[len(question) :] if ids[: len(question)] == question else [])
        if all(len(tail) == 1 for tail in tails) and tails[0] != tails[1]:
            return tails[0][0], tails[1][0]
        attempts += [tokenizer.convert_ids_to_tokens(tail) for tail in tails]
    raise LLMError(
        f"the answers {answers[0]!r} and {answers[1]!r} are not two different single tokens of this LLM after "
        f"{prompt_end[-30:]!r}: {attempts}; choose other answers, another template or another LLM"
    )
