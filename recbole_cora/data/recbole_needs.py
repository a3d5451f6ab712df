"""What RecBole's models need of a dataset, of the settings and of installed packages: written down once, here.

A model that lacks something is refused in one line before it is built. Everything here was read in RecBole 1.2.1's
model files; `tests/test_recbole_models.py` runs every model with and without what it needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.data.dataset import KnowledgeBasedDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_cora.errors import CoraError, DataError, SettingError

#: Model -> (settings under which it imports a package, the package's module, what to install).
_PACKAGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "KGAT": ({}, "dgl", "dgl"),
    "KGIN": ({}, "torch_scatter", "torch-scatter"),
    "MCCLK": ({}, "torch_scatter", "torch-scatter"),
    "NCL": ({}, "faiss", "faiss-gpu"),
    "NNCF": ({"neigh_info_method": "louvain"}, "community", "python-louvain"),
}

#: Model -> the setting that names item fields; it reads each of them from the `.item` file.
_ITEM_FIELDS = {
    "FDSA": "selected_features",
    "GRU4RecF": "selected_features",
    "S3Rec": "item_attribute",
    "SASRecF": "selected_features",
}

#: Model -> ids whose vectors it takes from `preload_weight`.
_VECTORS = {"GRU4RecKG": ("ent_id",), "KSR": ("ent_id", "rel_id")}

#: Model -> (setting, its values under which weights of an earlier run are needed, settings that hold their folders).
_PRETRAINED: dict[str, tuple[str, tuple[Any, ...], tuple[str, ...]]] = {
    "ConvNCF": ("train_method", ("after_pretrain",), ("pre_model_path",)),
    "KD_DAGFM": ("phase", ("distillation", "finetuning"), ("warm_up",)),
    "NeuMF": ("use_pretrain", (True,), ("mf_pretrain_path", "mlp_pretrain_path")),
    "RaCT": ("train_stage", ("critic_pretrain", "finetune"), ("pre_model_path",)),
    "S3Rec": ("train_stage", ("finetune",), ("pre_model_path",)),
}


def check_files(settings: Mapping[str, Any]) -> None:
    """Refuse a model whose packages or earlier runs are missing, before the data are read.

    Args:
        settings: every setting by name.

    Raises:
        SettingError: a package is not installed, or a setting is missing that the model cannot do without.
    """
    model = settings["model"]
    if model in _PACKAGES:
        where, module, package = _PACKAGES[model]
        if all(settings[key] == value for key, value in where.items()) and importlib.util.find_spec(module) is None:
            setting = "".join(f" with {key}: {value}" for key, value in where.items())
            raise SettingError(
                f"{model}{setting} needs the package '{module}', which is not installed; pip install {package}"
            )
    if settings["log_wandb"] and importlib.util.find_spec("wandb") is None:
        raise SettingError("log_wandb needs the package 'wandb', which is not installed; pip install wandb")
    for field in _VECTORS.get(model, ()):
        _check_vectors_are_set(settings, field)
    if model in _PRETRAINED:
        setting, values, folders = _PRETRAINED[model]
        for folder in folders if settings[setting] in values else ():
            if not settings.get(folder):
                raise SettingError(
                    f"{model} with {setting}: {settings[setting]} needs --{folder}=, the folder of the run that "
                    "trained the weights it begins with"
                )


def check_dataset(settings: Mapping[str, Any], dataset: Any) -> None:
    """Refuse a model that lacks a field, vectors or enough items, before it is built.

    Args:
        settings: every setting by name.
        dataset: RecBole's train dataset.

    Raises:
        DataError: the dataset lacks something.
        SettingError: a setting does not fit the dataset.
    """
    model = settings["model"]
    if model in _ITEM_FIELDS:
        _check_item_fields(settings, dataset, _ITEM_FIELDS[model])
    for field in _VECTORS.get(model, ()):
        _check_vectors(settings, dataset, field)
    check = _CHECKS.get(model)
    if check is not None:
        check(settings, dataset)


def _check_item_fields(settings: Mapping[str, Any], dataset: Any, setting: str) -> None:
    names = settings[setting]
    names = names if isinstance(names, list) else [names]
    loaded = [] if dataset.item_feat is None else list(dataset.item_feat.columns)
    missing = [name for name in names if name not in loaded]
    if missing:
        fields = ", ".join([settings["ITEM_ID_FIELD"], *map(str, names)])
        raise DataError(
            f"{settings['model']} reads the item field '{missing[0]}' ({setting}), which is not loaded; load it with "
            f"--load_col='{{inter: [{settings['USER_ID_FIELD']}, {settings['ITEM_ID_FIELD']}], item: [{fields}]}}', "
            f"or name others with --{setting}="
        )
    if settings["model"] == "S3Rec" and dataset.field2type[names[0]] != FeatureType.TOKEN_SEQ:
        raise DataError(f"S3Rec needs a field of type token_seq as {setting}; '{names[0]}' is another")


def _check_vectors_are_set(settings: Mapping[str, Any], field: str) -> None:
    kind, suffix = ("entity", "ent") if field == "ent_id" else ("relation", "rel")
    for key, wanted in (("preload_weight", f"{{{field}: {suffix}_vec}}"), (f"alias_of_{kind}_id", f"[{field}]")):
        if field not in (settings[key] or ()):
            raise SettingError(
                f"{settings['model']} needs vectors of the {kind} ids: a file {settings['dataset']}.{suffix} with the "
                f"columns {field}:token and {suffix}_vec:float_seq, named in additional_feat_suffix and load_col; and "
                f"--{key}='{wanted}'"
            )


def _check_vectors(settings: Mapping[str, Any], dataset: Any, field: str) -> None:
    key = "kg_embedding_size" if settings["model"] == "KSR" else "embedding_size"
    size = dataset._preloaded_weight[field].shape[1:]
    if size != (settings[key],):
        raise SettingError(
            f"{settings['model']}'s vectors of {field} have {'x'.join(map(str, size)) or 1} numbers, but {key} is "
            f"{settings[key]}; set --{key}={size[0] if size else 1}"
        )


def _check_candidates(settings: Mapping[str, Any], dataset: Any) -> None:
    """The CPR models take the best `reranker_CAN_NUM` of all items."""
    _check_best(settings, dataset, "reranker_CAN_NUM", map(int, str(settings["reranker_CAN_NUM"]).split(",")))


def _check_critic(settings: Mapping[str, Any], dataset: Any) -> None:
    """RaCT's critic learns NDCG of the best `metrics_k` items."""
    if settings["train_stage"] == "critic_pretrain":
        _check_best(settings, dataset, "metrics_k", [settings["metrics_k"]])


def _check_best(settings: Mapping[str, Any], dataset: Any, key: str, counts: Iterable[int]) -> None:
    most, items = max(counts), dataset.num(settings["ITEM_ID_FIELD"])
    if most > items:
        raise SettingError(
            f"{settings['model']} takes the best {most} items ({key}), but there are {items}; set --{key}={items // 2}"
        )


def _check_towers(settings: Mapping[str, Any], dataset: Any) -> None:
    """DSSM's layers count every float field, but it embeds those in `numerical_features` alone."""
    sources = [FeatureSource.USER, FeatureSource.ITEM]
    for field in dataset.fields(source=sources, ftype=[FeatureType.FLOAT, FeatureType.FLOAT_SEQ]):
        if field not in settings["numerical_features"]:
            raise SettingError(
                f"DSSM needs every float field that is loaded in numerical_features; '{field}' is not: add it, or "
                "leave it out of load_col"
            )


def _check_float_lists(settings: Mapping[str, Any], dataset: Any) -> None:
    """FwFM embeds lists of numbers, but forgets them among its fields."""
    for field in dataset.fields(source=[FeatureSource.USER, FeatureSource.ITEM], ftype=[FeatureType.FLOAT_SEQ]):
        if field in settings["numerical_features"]:
            raise SettingError(f"FwFM takes no fields of type float_seq; leave '{field}' out of numerical_features")


def _check_categories(settings: Mapping[str, Any], dataset: Any) -> None:
    """LDiffRec clusters items by their vectors."""
    if settings["n_cate"] <= 1:
        return
    path = Path(dataset.dataset_path) / "item_emb.npy"
    if not path.is_file():
        raise DataError(f"LDiffRec with n_cate above 1 needs item vectors in {path}, which is not there")
    if importlib.util.find_spec("kmeans_pytorch") is None:
        raise SettingError(
            "LDiffRec with n_cate above 1 needs the package 'kmeans_pytorch', which is not installed; "
            "pip install kmeans-pytorch"
        )


_CHECKS: dict[str, Callable[[Mapping[str, Any], Any], None]] = {
    "DSSM": _check_towers,
    "FwFM": _check_float_lists,
    "GRU4RecCPR": _check_candidates,
    "LDiffRec": _check_categories,
    "RaCT": _check_critic,
    "SASRecCPR": _check_candidates,
}


def check_knowledge(dataset: KnowledgeBasedDataset) -> None:
    """Refuse links from which RecBole would make wrong entity ids: it takes one item an entity, and one entity an item.

    Args:
        dataset: with `kg_feat` and `item2entity` loaded, as RecBole loads them.

    Raises:
        DataError: two items are linked to one entity, or no item is linked to an entity of the `.kg` file.
    """
    items: dict[str, str] = {}
    for item, entity in dataset.item2entity.items():
        if entity in items:
            raise DataError(
                f"{dataset.dataset_name}.link links the items '{items[entity]}' and '{item}' to one entity, "
                f"'{entity}'; RecBole's knowledge-graph models need an entity for each"
            )
        items[entity] = item
    if not items:
        raise DataError(
            f"{dataset.dataset_name}.link links no rated item to an entity of {dataset.dataset_name}.kg; expected the "
            f"columns {dataset.iid_field}:token and {dataset.entity_field}:token"
        )


@contextmanager
def one_line(model: type) -> Iterator[None]:
    """Where RecBole's code raises while it builds one of its models, say so in one line, with the model's name.

    The last net, below the checks above. The code of this package's models is let through: its errors are bugs.

    Raises:
        SettingError: in place of whatever was raised.
    """
    try:
        yield
    except CoraError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        if not model.__module__.startswith("recbole.") or "out of memory" in str(error):
            raise
        what = " ".join(str(error).split()) or "no message"
        raise SettingError(
            f"RecBole cannot build {model.__name__} with these data and settings ({type(error).__name__}: {what})"
        ) from error
