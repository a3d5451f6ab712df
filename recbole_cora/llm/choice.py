"""The choice of a run's LLM: the one that the settings name, or for `auto` the best one available."""

from __future__ import annotations

from typing import Any

from recbole_cora.settings.presets import tiny_preset
from recbole_cora.settings.resolve import Settings

#: The LLM that `--llm=auto` uses if it can.
DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"
#: GPU memory that Vicuna-7B needs in bfloat16, weights and activations, in bytes.
_DEFAULT_LLM_BYTES = 18e9


def with_llm(settings: Settings) -> tuple[Settings, str, dict[str, Any]]:
    """Choose the LLM of a model that reads prompts.

    Returns:
        The settings, with the LLM's name in place of `auto`, and with the tiny LLM's preset for values that the user
        did not set; the reason for this LLM, in one line; and the values that the preset changed.
    """
    name, why = settings["llm"], "as set by --llm"
    if name == "auto":
        name, why = _auto()
    settings = settings.with_values({"llm": name})
    if name != "tiny":
        return settings, why, {}
    settings, changed = tiny_preset(settings)
    return settings, f"{why}; it stands in for a real LLM and knows only this dataset's train rows and titles", changed


def _auto() -> tuple[str, str]:
    import torch  # here, so that mistakes in settings are reported without loading it
    from huggingface_hub import try_to_load_from_cache

    if not torch.cuda.is_available():
        return "tiny", "auto: no GPU"
    if torch.cuda.get_device_properties(0).total_memory < _DEFAULT_LLM_BYTES:
        return (
            "tiny",
            f"auto: the GPU has less than the {_DEFAULT_LLM_BYTES / 1e9:.0f} GB of memory that {DEFAULT_LLM} needs",
        )
    if not isinstance(try_to_load_from_cache(DEFAULT_LLM, "config.json"), str):
        return "tiny", f"auto: the weights of {DEFAULT_LLM} are not on this machine (download them, or set --llm=)"
    return DEFAULT_LLM, "auto: its weights and a large enough GPU are on this machine"
