"""LLMs in GGUF files: read once, then kept dequantised in the cache as an ordinary Hugging Face folder.

`transformers` turns the quantised tensors of a GGUF file into ordinary weights, for every family that it can read. That
takes seconds to minutes, so the result is written to the cache. Later runs, and the other processes of a run, map that
folder into memory.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import torch

from recbole_cora.cache import cached
from recbole_cora.errors import LLMError
from recbole_cora.files import content_key
from recbole_cora.llm import hub

#: Part of the cache key. Raise it when a file gives other weights or another tokenizer than before.
_VERSION = 1


def is_gguf(path: str) -> bool:
    """Return True if the path names a GGUF file."""
    return path.lower().endswith(".gguf")


def dequantised(path: Path, cache_dir: Path, dtype: torch.dtype) -> Path:
    """Return the folder of a GGUF file's LLM with ordinary weights in `dtype`; it is made if the cache lacks it.

    The entry's key is the file's content, so a moved file is found again and a changed one is read again.

    Raises:
        LLMError: there is no such file, it is damaged, `transformers` cannot read it, or gguf is not installed.
        WriteError: the cache cannot be written.
    """
    name = str(dtype).removeprefix("torch.")
    key = content_key(_VERSION, version("transformers").split(".")[0], _digest(path), name)
    folder = cache_dir / "llm" / f"gguf-{path.stem[:40]}-{name}-{key}"

    def fill(temporary: Path) -> None:
        model, tokenizer = hub.read_gguf(path, dtype)
        hub.save(model, tokenizer, temporary)

    cached(folder, fill, lambda entry: None)  # checks the manifest only; FrozenLLM reads the files
    return folder


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises LLMError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    except OSError as error:
        raise LLMError(f"cannot read the LLM '{path}' ({error.strerror}); expected a GGUF file") from None
    return digest.hexdigest()
