"""Model classes by name: this package's and all of RecBole's. A class is imported only when it is asked for."""

from __future__ import annotations

import importlib

from recbole_cora.errors import SettingError, nearest
from recbole_cora.settings.recbole import recbole_model_kinds

#: This package's models: the class name and its module. A model's settings, and the frozen parts that it is built from,
#: are declared in `recbole_cora.settings.models`.
OURS: dict[str, str] = {
    "CoRA": "recbole_cora.models.cora",
    "ICL": "recbole_cora.models.icl",
    "LateFusion": "recbole_cora.models.late_fusion",
    "TALLRec": "recbole_cora.models.tallrec",
    "Prompt4NR": "recbole_cora.models.prompt4nr",
    "PersonPrompt": "recbole_cora.models.personprompt",
    "CoLLM": "recbole_cora.models.collm",
    "BinLLM": "recbole_cora.models.binllm",
    "BinaryCodes": "recbole_cora.models.binary_codes",
    "MF": "recbole_cora.models.mf",
    "LGCN": "recbole_cora.models.lgcn",
    "SAS": "recbole_cora.models.sas",
    "Averages": "recbole_cora.models.averages",
    "HistoryFeatures": "recbole_cora.models.history_features",
}


def model_class(name: str) -> type:
    """Return a model's class. Raises SettingError, which suggests the nearest name, if there is no such model."""
    kinds = recbole_model_kinds()
    if name in OURS:
        module = OURS[name]
    elif name in kinds:
        module = f"recbole.model.{_PACKAGES[kinds[name]]}"
    else:
        raise SettingError(
            f"unknown model '{name}'{nearest(name, {**kinds, **OURS})} (recbole-cora run --models lists them)"
        )
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def recbole_models() -> dict[str, type]:
    """Return every model class that RecBole's packages export, by name."""
    return {name: model_class(name) for name in recbole_model_kinds() if name not in OURS}


_PACKAGES = {
    "general": "general_recommender",
    "context": "context_aware_recommender",
    "sequential": "sequential_recommender",
    "knowledge": "knowledge_aware_recommender",
}
