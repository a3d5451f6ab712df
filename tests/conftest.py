"""A toy dataset in RecBole's atomic files, with titles that try to break things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

USERS, ITEMS, RATINGS = 12, 30, 20


def write_toy(folder: Path, name: str = "toy", **changes: str | None) -> Path:
    """Write `<folder>/<name>/<name>.inter` and `.item`; `changes` replaces a file's text, None leaves it out."""
    random = np.random.default_rng(0)
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        for place, item in enumerate(random.permutation(ITEMS)[:RATINGS]):
            rating = 5 if (item + user + place) % 2 else 2
            inter.append(f"u{user}\ti{item}\t{rating}\t{1000 + place}")
    titles = ["{history} {title}", '"Quoted', "NA", "</s> Yes", "It's 100% {0}", 'end"'] + [
        f"Title {n}" for n in range(ITEMS)
    ]
    items = ["item_id:token\ttitle:token_seq\tclass:token_seq"]
    items += [f"i{item}\t{titles[item]}\tDrama" for item in range(ITEMS)]
    texts: dict[str, str | None] = {"inter": "\n".join(inter) + "\n", "item": "\n".join(items) + "\n", **changes}
    target = folder / name
    target.mkdir(parents=True)
    for suffix, text in texts.items():
        if text is not None:
            (target / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return target


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with dataset/toy in it, made the current one."""
    monkeypatch.chdir(tmp_path)
    return write_toy(tmp_path / "dataset")
