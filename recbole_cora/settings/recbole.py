"""RecBole's own settings, read from the YAML files of the installed package without importing it.

The YAML files hold the default of each key, and a comment on what it does. A key's type is the type of its default;
LIMITS and PATTERNS below add ranges.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from recbole_cora.errors import SettingError
from recbole_cora.settings.kinds import Setting, SettingValues
from recbole_cora.settings.reading import read_yaml

#: Limits by key; the names are attributes of `Setting`.
LIMITS: dict[str, SettingValues] = {
    "gpu_id": {"kind": str, "shapes_results": False},
    "worker": {"least": 0, "shapes_results": False},
    "use_gpu": {"shapes_results": False},
    "seed": {"least": 0, "most": 2**32 - 1},
    "state": {
        "one_of": ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "critical", "error", "warning", "info", "debug"),
        "shapes_results": False,
    },
    "data_path": {"shapes_results": False},
    "show_progress": {"shapes_results": False},
    "save_dataset": {"one_of": (False,), "shapes_results": False},
    "dataset_save_path": {"kind": str, "optional": True, "shapes_results": False},
    "save_dataloaders": {"one_of": (False,), "shapes_results": False},
    "dataloaders_save_path": {"kind": str, "optional": True, "shapes_results": False},
    "log_wandb": {"shapes_results": False},
    "wandb_project": {"shapes_results": False},
    "epochs": {"least": 1},
    "learner": {"one_of": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")},
    "learning_rate": {"kind": float, "above": 0},
    "train_neg_sample_args": {"optional": True},
    "eval_step": {"least": 1},
    "stopping_step": {"least": 0},
    "clip_grad_norm": {"kind": dict, "optional": True},
    "weight_decay": {"kind": float, "least": 0},
    "loss_decimal_place": {"least": 0, "most": 15},
    "transform": {"kind": str, "optional": True},
    "topk": {"item": int, "least": 1},
    "eval_batch_size": {"least": 1, "shapes_results": False},
    "MAX_ITEM_LIST_LENGTH": {"least": 1},
    "seq_len": {"kind": dict, "optional": True},
    "threshold": {"kind": dict, "optional": True},
    "numerical_features": {"item": str},
    "load_col": {"optional": True},
    "benchmark_filename": {"kind": list, "item": str, "optional": True},
    "loss_type": {"one_of": ("BPR", "CE", "BCE", "MSE")},
    "reranker_CAN_NUM": {"kind": object},  # a number, or several with commas
    "hidden_act": {"one_of": ("gelu", "relu", "swish", "tanh", "sigmoid")},
    "layer_norm_eps": {"kind": float, "above": 0},
}

#: Limits of the other keys. The first pattern that matches the whole key decides.
PATTERNS: tuple[tuple[str, SettingValues], ...] = (
    (r"(.*_)?(dropout|dropout_prob|dropout_probs|dropout_rate|drop_ratio|mask_ratio)|(mess|node|sess|item)_dropout.*",
     {"kind": float, "least": 0, "most": 1}),
    (r".*_size|.*_dimension|.*_dim|rank|low_rank|(n|num)_heads|num_clusters|.*kernel_size|MAX_ITEM_LIST_LENGTH",
     {"kind": int, "least": 1}),
    (r"n_(layers|factors|iterations|hops?|memory)|num_layers|.*_(num|layers?|steps?|epochs|rounds)|"
     r"k|depth|order|.*_hops",
     {"kind": int, "least": 0}),
    (r"temperature|tau|.*_temp|.*_tau", {"kind": float, "above": 0}),
    (r"initializer_range|init_std", {"kind": float, "least": 0}),
    (r"reg_weight.*|.*_(reg|weight|ratio|cap)|margin|alpha|beta|gamma", {"kind": float}),
)  # fmt: skip

_PACKAGES = {
    "general_recommender": "general",
    "context_aware_recommender": "context",
    "sequential_recommender": "sequential",
    "knowledge_aware_recommender": "knowledge",
}
_COMMENT = re.compile(r"^ *(?P<key>[\w-]+) *:.*?# *(?:\([^)]*\))? *(?P<help>.*?) *$")


@cache
def _package() -> Path:
    """Return the folder of the installed RecBole. Raises SettingError if it is not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise SettingError("RecBole is not installed; install it: pip install --no-deps recbole==1.2.1")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def recbole_model_kinds() -> dict[str, str]:
    """Return the kind of every model that RecBole exports: general, context, sequential or knowledge."""
    kinds: dict[str, str] = {}
    for package, kind in _PACKAGES.items():
        source = (_package() / "model" / package / "__init__.py").read_text(encoding="utf-8")
        kinds |= dict.fromkeys(re.findall(r"^from [\w.]+ import (\w+)$", source, re.MULTILINE), kind)
    return kinds


def bundled_data(dataset: str) -> Path | None:
    """Return the folder of a dataset that comes with RecBole, or None for any other dataset."""
    return _package() / "dataset_example" / dataset if dataset == "ml-100k" else None


def recbole_files(model: str, kind: str, dataset: str) -> list[Path]:
    """Return the YAML files that RecBole's Config reads for a model on a dataset; later files win."""
    quick_start = []
    ml_100k = dataset == "ml-100k"
    if kind == "context":
        quick_start = ["context-aware", *(["context-aware_ml-100k"] if ml_100k else [])]
    elif kind == "knowledge":
        quick_start = ["knowledge_base"]
    elif model in ("DIN", "DIEN"):
        quick_start = ["sequential_DIN", *(["sequential_DIN_on_ml-100k"] if ml_100k else [])]
    elif model in ("GRU4RecKG", "KSR"):
        quick_start = ["sequential_embedding_model"]
    elif kind == "sequential":
        special = ml_100k and model in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")
        quick_start = ["sequential", *(["special_sequential_on_ml-100k"] if special else [])]
    names = ["overall", f"model/{model}", "dataset/sample", f"dataset/{dataset}"]
    names += [f"quick_start_config/{name}" for name in quick_start]
    paths = [_package() / "properties" / f"{name}.yaml" for name in names]
    return [path for path in paths if path.is_file()]


def recbole_settings(path: Path) -> dict[str, Setting]:
    """Return the settings that one of RecBole's YAML files declares, by name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = {match["key"]: match["help"] for line in lines if (match := _COMMENT.match(line))}
    return {key: _setting(key, value, comments.get(key, "")) for key, value in read_yaml(path).items()}


def _setting(key: str, default: Any, help: str) -> Setting:
    by_pattern: SettingValues = next((limits for pattern, limits in PATTERNS if re.fullmatch(pattern, key)), {})
    limits = dict(LIMITS.get(key, by_pattern))
    kind = limits.pop("kind", None)
    if kind is None or (kind in (int, float) and not _numeric(default)):
        kind = object if default is None else float if type(default) is int and not limits else type(default)
    if isinstance(default, list):
        kind, item = list, limits.pop("item", kind)
        limits["item"] = item if item in (int, float, str) else object
    if not _fits(limits, default):
        limits = {name: limit for name, limit in limits.items() if name not in ("least", "most", "above", "below")}
    limits.setdefault("optional", default is None)
    return Setting(key, kind, default, help, **limits)


def _numeric(default: object) -> bool:
    items = default if isinstance(default, list) else [default]
    return all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items)


def _fits(limits: SettingValues, default: object) -> bool:
    """Return whether RecBole's default is at least `least`. Some defaults have a special meaning, such as -1."""
    least = limits.get("least")
    items = default if isinstance(default, list) else [default]
    return least is None or all(not isinstance(item, (int, float)) or item >= least for item in items)
