"""`python -m recbole_cora.settings`: generate properties/*.yaml and docs/settings.md from the declarations."""

from __future__ import annotations

from pathlib import Path

from recbole_cora.settings.pages import write_pages

if __name__ == "__main__":
    write_pages(Path(__file__).resolve().parents[2])
