"""Keys and values of prompts' beginnings (template and history), read once by the frozen LLM.

Where the collaborative weights act on the question alone, everything before it is the frozen model's: the same for
every candidate item of a user, and the same in every epoch.

Legend: P tokens of a prefix, h heads of keys, e width of a head.
"""

from __future__ import annotations

from torch import Tensor

#: Of one prefix: keys and values of each block [2, h, P, e].
Prefix = tuple[Tensor, ...]


class PrefixCache:
    """Keys and values by the prefix's token ids, as bytes, up to a size.

    What is in stays in: an epoch may pass over more prefixes than there is room for, and then throwing out the oldest
    would throw out what comes next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.latest: dict[bytes, Prefix] = {}
        self._kept: dict[bytes, Prefix] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, prefix: bytes) -> Prefix | None:
        """What is kept of these token ids."""
        return self.latest.get(prefix) or self._kept.get(prefix)

    def offer(self, prefix: bytes, states: Prefix) -> None:
        """Keep `states`, if there is room."""
        size = sum(layer.numel() * layer.element_size() for layer in states)
        if prefix not in self._kept and self.bytes + size <= self.limit_bytes:
            self._kept[prefix] = states
            self.bytes += size

    def clear(self) -> None:
        """Forget everything."""
        self.latest = {}
        self._kept.clear()
        self.bytes = 0
