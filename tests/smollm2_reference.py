"""SmolLM2 a second time, from its GGUF file alone, in Python and numpy: its tokenizer's rules and its forward pass."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray

#: Each digit is a word of its own; then GPT-2's words.
_DIGIT = regex.compile(r"\p{N}")
_WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def _byte_letters() -> dict[int, str]:
    """Return GPT-2's letter for each byte: printable ones stand for themselves, the rest are shifted beyond 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


class Reference:
    """The content of one GGUF file of the Llama family with a byte-level BPE."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        tokens = self.value("tokenizer.ggml.tokens")
        self.ids = {token: n for n, token in enumerate(tokens)}
        self.ranks = {tuple(pair.split(" ")): n for n, pair in enumerate(self.value("tokenizer.ggml.merges"))}
        control = [t for t, kind in zip(tokens, self.value("tokenizer.ggml.token_type"), strict=True) if kind == 3]
        self._control = regex.compile("(" + "|".join(map(regex.escape, sorted(control, key=len, reverse=True))) + ")")
        self._letters = _byte_letters()

    def value(self, name: str) -> Any:
        return self._fields[name].contents()

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = []
        for part in self._control.split(text):
            if part in self.ids and self._control.fullmatch(part):
                ids.append(self.ids[part])
                continue
            for piece in regex.split(f"({_DIGIT.pattern})", part):
                for word in [piece] if _DIGIT.fullmatch(piece) else _WORD.findall(piece):
                    ids += [self.ids[token] for token in self._merge(word)]
        return ids

    def _merge(self, word: str) -> list[str]:
        """Merge the best-ranked neighbours until no pair has a rank."""
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, 1 << 30))
            if best not in self.ranks:
                break
            n = pairs.index(best)
            parts[n : n + 2] = ["".join(best)]
        return parts

    def tensor(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)

    @cached_property
    def _embeddings(self) -> NDArray[np.float32]:
        return self.tensor("token_embd.weight")

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Return the logits [vocabulary] of the token after `ids`, by the equations of Llama."""
        heads, kv_heads = self.value("llama.attention.head_count"), self.value("llama.attention.head_count_kv")
        epsilon = self.value("llama.attention.layer_norm_rms_epsilon")
        width = self.value("llama.rope.dimension_count")
        angles = np.outer(np.arange(len(ids)), self.value("llama.rope.freq_base") ** -(np.arange(0, width, 2) / width))
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]  # [L, 1, width / 2]

        def norm(x: NDArray[Any], name: str) -> NDArray[Any]:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * self.tensor(name)

        def rotate(x: NDArray[Any]) -> NDArray[Any]:  # a GGUF file of Llama keeps the two halves of a pair side by side
            even, odd = x[..., ::2], x[..., 1::2]
            return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

        x = self._embeddings[ids].astype(np.float64)
        masked = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for n in range(self.value("llama.block_count")):
            block = f"blk.{n}."
            normed = norm(x, block + "attn_norm.weight")
            q = rotate((normed @ self.tensor(block + "attn_q.weight").T).reshape(len(ids), heads, -1))
            k = rotate((normed @ self.tensor(block + "attn_k.weight").T).reshape(len(ids), kv_heads, -1))
            v = (normed @ self.tensor(block + "attn_v.weight").T).reshape(len(ids), kv_heads, -1)
            k, v = (np.repeat(y, heads // kv_heads, axis=1) for y in (k, v))
            scores = np.einsum("ihe,jhe->hij", q, k) / np.sqrt(q.shape[-1]) + masked
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            attended = np.einsum("hij,jhe->ihe", weights, v).reshape(len(ids), -1)
            x = x + attended @ self.tensor(block + "attn_output.weight").T
            normed = norm(x, block + "ffn_norm.weight")
            gate = normed @ self.tensor(block + "ffn_gate.weight").T
            up = normed @ self.tensor(block + "ffn_up.weight").T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.tensor(block + "ffn_down.weight").T
        return np.asarray(norm(x[-1], "output_norm.weight") @ self._embeddings.T)
