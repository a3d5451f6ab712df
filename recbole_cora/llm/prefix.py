"""Keys and values of prompt prefixes (template and history), which the frozen LLM reads once.

If the collaborative weights act on the question only, the tokens before it are read by the base LLM: the result is the
same for every candidate item of a user, and in every epoch.

Legend: P tokens of a prefix, h heads of keys, e width of a head.
"""

from __future__ import annotations

from torch import Tensor

#: Keys and values of one prefix in each block [2, h, P, e].
Prefix = tuple[Tensor, ...]


class PrefixCache:
    """A cache of prefixes by their token ids (as bytes), with a limited size.

    Entries are never evicted. An epoch may visit more prefixes than fit; evicting the oldest would then evict exactly
    the entries that are needed next.

    Attributes:
        bytes: size of the entries.
        latest: prefixes of the call in progress, whether or not they fit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.latest: dict[bytes, Prefix] = {}
        self._entries: dict[bytes, Prefix] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, prefix: bytes) -> Prefix | None:
        """Return the keys and values of a prefix; None if they are not cached."""
        return self.latest.get(prefix) or self._entries.get(prefix)

    def offer(self, prefix: bytes, states: Prefix) -> None:
        """Add an entry if there is room."""
        size = sum(layer.numel() * layer.element_size() for layer in states)
        if prefix not in self._entries and self.bytes + size <= self.limit_bytes:
            self._entries[prefix] = states
            self.bytes += size

    def clear(self) -> None:
        """Remove all entries."""
        self.latest = {}
        self._entries.clear()
        self.bytes = 0
