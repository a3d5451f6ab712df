"""Model names to classes: ours, then every model of RecBole."""

from __future__ import annotations

import importlib
import inspect

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_cora.errors import SettingError, nearest
from recbole_cora.models.averages import Averages
from recbole_cora.models.binary_codes import BinaryCodes
from recbole_cora.models.binllm import BinLLM
from recbole_cora.models.collm import CoLLM
from recbole_cora.models.cora import CoRA
from recbole_cora.models.history_features import HistoryFeatures
from recbole_cora.models.icl import ICL
from recbole_cora.models.lgcn import LGCN
from recbole_cora.models.mf import MF
from recbole_cora.models.personprompt import PersonPrompt
from recbole_cora.models.prompt4nr import Prompt4NR
from recbole_cora.models.sas import SAS
from recbole_cora.models.tallrec import TALLRec

#: A model of this package is a line here; what it is built from stands in its class (`needs`).
OURS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        CoRA, ICL, TALLRec, Prompt4NR, PersonPrompt, CoLLM, BinLLM, BinaryCodes,
        MF, LGCN, SAS, Averages, HistoryFeatures,
    )
}  # fmt: skip

_RECBOLE_PACKAGES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
)


def recbole_models() -> dict[str, type]:
    """Every model class that RecBole's packages export, by name."""
    found: dict[str, type] = {}
    for package in _RECBOLE_PACKAGES:
        module = importlib.import_module(f"recbole.model.{package}")
        classes = inspect.getmembers(module, inspect.isclass)
        found.update(
            {n: c for n, c in classes if issubclass(c, AbstractRecommender) and "abstract" not in c.__module__}
        )
    return found


def model_class(name: str) -> type:
    """The class of a model. Raises SettingError with the nearest name for one that does not exist."""
    known = {**recbole_models(), **OURS}
    if name not in known:
        raise SettingError(
            f"unknown model '{name}'{nearest(name, known)} (ours: {', '.join(OURS)}; and RecBole's models)"
        )
    return known[name]
