"""What the tiny LLM needs instead of the paper's sizes: a function from settings to settings."""

from __future__ import annotations

from typing import Any

from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.resolve import Settings


def tiny_preset(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """Return `settings` with properties/llm/tiny.yaml where the user chose nothing, and the values that it changed.

    The memory with evidence and the paper's, which is e_u and e_i alone, have presets of their own: what suits one does
    not suit the other.
    """
    page = read_yaml(PROPERTIES / "llm" / "tiny.yaml")
    layer = {**page["all"], **page["models"].get(settings.model, {})}
    if settings.get("cf_evidence"):
        layer |= page["with_evidence"].get(settings.model, {})
    preset = settings.with_defaults(layer)
    return preset, {key: preset[key] for key in layer if key in preset and preset[key] != settings[key]}
