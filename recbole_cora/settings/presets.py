"""Defaults for the tiny LLM, in place of the paper's sizes."""

from __future__ import annotations

from typing import Any

from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.resolve import Settings


def tiny_preset(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """Apply properties/llm/tiny.yaml to the settings that the user left at their defaults.

    The memory with evidence has its own preset, because the preset for the paper's memory (e_u and e_i alone) does not
    suit it.

    Returns:
        The new settings, and the values that changed.
    """
    page = read_yaml(PROPERTIES / "llm" / "tiny.yaml")
    defaults = {**page["all"], **page["models"].get(settings.model, {})}
    if settings.get("cf_evidence"):
        defaults |= page["with_evidence"].get(settings.model, {})
    preset = settings.with_defaults(defaults)
    return preset, {key: preset[key] for key in defaults if key in preset and preset[key] != settings[key]}
