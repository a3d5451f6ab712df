"""The LLM that `--llm=auto` stands for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recbole_cora.llm.choice import DEFAULT_LLM, with_llm
from recbole_cora.settings.resolve import resolve


@pytest.mark.parametrize(
    ("gigabytes", "cached", "allow_pickle", "name", "why"),
    [
        (None, {"model.safetensors"}, False, "tiny", "no GPU"),
        (12, {"model.safetensors"}, False, "tiny", "less than the 18 GB"),
        (80, {"config.json"}, False, "tiny", "no weights"),
        (80, {"pytorch_model.bin.index.json"}, False, "tiny", "--allow_pickle=True"),
        (80, {"pytorch_model.bin.index.json"}, True, DEFAULT_LLM, "available"),
        (80, {"model.safetensors.index.json"}, False, DEFAULT_LLM, "available"),
    ],
)
def test_auto_takes_only_what_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int | None, cached: set[str], allow_pickle: bool, name: str, why: str
) -> None:
    """It needs a large enough GPU and weights that the settings allow; otherwise it is tiny, with a reason."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gigabytes is not None)
    memory = SimpleNamespace(total_memory=(gigabytes or 0) * 1e9)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: memory)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: file if file in cached else None)
    settings, reason, _ = with_llm(resolve("ICL", "ml-100k", {"allow_pickle": allow_pickle}))
    assert settings["llm"] == name and why in reason
