"""The tiny LLM: a tokenizer and a small Llama, trained from scratch on a dataset's texts in under a minute.

It reads prompts of its own domain and knows nothing else. It lets you try everything without a download. The result is
an ordinary Hugging Face folder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from recbole_cora.errors import LLMError
from recbole_cora.llm.answers import answer_tokens
from recbole_cora.llm.hub import make_llama, save, wrap_tokenizer
from recbole_cora.progress import Progress

SPECIAL = ("<s>", "</s>", "<pad>")
MAX_TOKENS = 1024
#: Version of this LLM, in its cache key: raise it if the same texts, seed and sizes now give another LLM.
VERSION = 1
_TOKENIZER_TEXTS = 5000  # more texts give the same tokens


def make_tiny_llm(
    folder: Path,
    texts: list[str],
    *,
    seed: int,
    steps: int = 50,
    hidden: int = 128,
    layers: int = 2,
    batch: int = 16,
    length: int = 128,
    show_progress: bool = True,
) -> None:
    """Train the tiny LLM on `texts` and write it to `folder`.

    Args:
        texts: documents (prompts with their answers, item texts, histories); their order is shuffled by the seed.
        seed: the same texts, seed and machine give the same LLM. The global random state does not change.
        steps: AdamW steps, each on `batch` chunks of `length` tokens.
        hidden, layers: the Llama's size; its heads are 32 wide.

    Raises:
        LLMError: there is no text.
        OSError: the folder cannot be written.
    """
    if not any(texts):
        raise LLMError("no text to train the tiny LLM on; expected prompts, titles or histories")

    shuffled = random.Random(seed).sample(texts, len(texts))
    tokenizer = wrap_tokenizer(train_tokenizer(shuffled[:_TOKENIZER_TEXTS]), MAX_TOKENS)
    answer_tokens(tokenizer, ("Yes", "No"))  # refuses a tokenizer that splits them
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = make_llama(
            vocab_size=len(tokenizer),
            hidden=hidden,
            layers=layers,
            heads=max(1, hidden // 32),
            intermediate=round(hidden * 8 / 3 / 8) * 8,
            max_tokens=MAX_TOKENS,
            special={f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        )
        stream = _stream(tokenizer, shuffled, steps * batch * length)
        _train(model, stream, seed, steps, batch, length, show_progress)
    save(model, tokenizer, folder)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4000) -> Tokenizer:
    """Train a byte-level BPE that adds <s>, reads any Unicode, and has " Yes" and " No" as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(texts)
    answers = [" Yes No"] * (len(texts) + 100)  # often enough that each becomes one token, whatever the texts
    tokenizer.train_from_iterator([*texts, *answers], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def _stream(tokenizer: Any, texts: list[str], tokens: int) -> Tensor:
    """Return texts as one row, <s> text </s> <s> text </s> ..., which may end once it has more than `tokens` tokens."""
    ids: list[int] = []
    for start in range(0, len(texts), 500):
        if len(ids) > tokens:
            break
        for document in tokenizer(texts[start : start + 500], verbose=False)["input_ids"]:
            ids += [*document, tokenizer.eos_token_id]
    return torch.tensor(ids)


def _train(model: Any, stream: Tensor, seed: int, steps: int, batch: int, length: int, show_progress: bool) -> None:
    """Train on next tokens of random chunks. Learning rate: 20 steps of warm-up to 3e-3, then a cosine to a tenth."""
    generator = torch.Generator().manual_seed(seed)
    length = min(length, len(stream))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    with Progress("tiny LLM", "step", steps, show=show_progress) as bar:
        for step in range(steps):
            fraction = step / max(1, steps)
            rate = 3e-3 * min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * fraction))
            for group in optimizer.param_groups:
                group["lr"] = rate
            starts = torch.randint(0, len(stream) - length + 1, (batch, 1), generator=generator)
            chunks = stream[starts + torch.arange(length)]  # [batch, length]
            loss = model(input_ids=chunks, labels=chunks, use_cache=False).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 0:
                bar.note(f"loss {loss.item():.2f}")
            bar.update()
    model.eval()
