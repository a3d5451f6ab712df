"""Facts in `<name>.prepared.json` that every report on the dataset repeats: how its negatives were sampled."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_cora.errors import DataError


def sampled_negatives(folder: Path, name: str) -> str:
    """Return how `recbole-cora prepare --implicit` drew the negatives of a dataset; "" if it has none.

    Raises:
        DataError: `<name>.prepared.json` is damaged.
    """
    path = folder / f"{name}.prepared.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["negatives"]["about"]) if "negatives" in content else ""
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the dataset again") from None
