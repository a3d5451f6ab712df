"""Requirements of RecBole's models on the dataset, the settings and the installed packages.

A model whose requirements are not met is refused with a one-line error before it is built. The requirements come from
RecBole 1.2.1's model files; `tests/test_recbole_models.py` runs every model with and without what it requires.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_cora.errors import CoraError, DataError, SettingError
from recbole_cora.settings.kinds import SettingValues


class _Package(NamedTuple):
    """A package that a model imports, and the settings with which it imports the package; {} means always."""

    module: str
    pip_name: str
    settings: SettingValues


#: Model -> the package that it imports.
_PACKAGES = {
    "KGAT": _Package("dgl", "dgl", {}),
    "KGIN": _Package("torch_scatter", "torch-scatter", {}),
    "MCCLK": _Package("torch_scatter", "torch-scatter", {}),
    "NCL": _Package("faiss", "faiss-gpu", {}),
    "NNCF": _Package("community", "python-louvain", {"neigh_info_method": "louvain"}),
}

#: Model -> the setting that names the item fields which the model reads from the `.item` file.
_ITEM_FIELDS = {
    "FDSA": "selected_features",
    "GRU4RecF": "selected_features",
    "S3Rec": "item_attribute",
    "SASRecF": "selected_features",
}

#: Model -> the ids whose vectors it reads from `preload_weight`.
_VECTORS = {"GRU4RecKG": ("ent_id",), "KSR": ("ent_id", "rel_id")}


class _Pretrained(NamedTuple):
    """A setting, the values with which the model starts from earlier runs, and the settings that name their folders."""

    setting: str
    values: tuple[str | bool, ...]
    folders: tuple[str, ...]


#: Model -> the setting by which it starts from earlier runs.
_PRETRAINED = {
    "ConvNCF": _Pretrained("train_method", ("after_pretrain",), ("pre_model_path",)),
    "KD_DAGFM": _Pretrained("phase", ("distillation", "finetuning"), ("warm_up",)),
    "NeuMF": _Pretrained("use_pretrain", (True,), ("mf_pretrain_path", "mlp_pretrain_path")),
    "RaCT": _Pretrained("train_stage", ("critic_pretrain", "finetune"), ("pre_model_path",)),
    "S3Rec": _Pretrained("train_stage", ("finetune",), ("pre_model_path",)),
}


def check_files(settings: SettingValues) -> None:
    """Refuse a model whose packages or pretrained weights are missing, before the data are read.

    Args:
        settings: every setting by name.

    Raises:
        SettingError: a package is not installed, or a setting that the model requires is missing.
    """
    model = settings["model"]
    if model in _PACKAGES:
        package = _PACKAGES[model]
        imports_it = all(settings[key] == value for key, value in package.settings.items())
        if imports_it and importlib.util.find_spec(package.module) is None:
            setting = "".join(f" with {key}: {value}" for key, value in package.settings.items())
            raise SettingError(
                f"{model}{setting} needs the package '{package.module}', which is not installed; "
                f"pip install {package.pip_name}"
            )
    if settings["log_wandb"] and importlib.util.find_spec("wandb") is None:
        raise SettingError("log_wandb needs the package 'wandb', which is not installed; pip install wandb")
    for field in _VECTORS.get(model, ()):
        _check_vectors_are_set(settings, field)
    if model in _PRETRAINED:
        pretrained = _PRETRAINED[model]
        value = settings[pretrained.setting]
        for folder in pretrained.folders if value in pretrained.values else ():
            if not settings.get(folder):
                raise SettingError(
                    f"{model} with {pretrained.setting}: {value} needs --{folder}=, the folder of the run that trained "
                    "its initial weights"
                )


def check_dataset(settings: SettingValues, dataset: Dataset) -> None:
    """Refuse a model if the dataset lacks a field, vectors or enough items for it, before it is built.

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


def _check_item_fields(settings: SettingValues, dataset: Dataset, setting: str) -> None:
    names = settings[setting]
    names = names if isinstance(names, list) else [names]
    loaded_fields = [] if dataset.item_feat is None else list(dataset.item_feat.columns)
    absent = [name for name in names if name not in loaded_fields]
    if absent:
        fields = ", ".join([settings["ITEM_ID_FIELD"], *map(str, names)])
        raise DataError(
            f"{settings['model']} reads the item field '{absent[0]}' ({setting}), which is not loaded; load it with "
            f"--load_col='{{inter: [{settings['USER_ID_FIELD']}, {settings['ITEM_ID_FIELD']}], item: [{fields}]}}', "
            f"or name other fields with --{setting}="
        )
    if settings["model"] == "S3Rec" and dataset.field2type[names[0]] != FeatureType.TOKEN_SEQ:
        raise DataError(f"S3Rec needs a field of type token_seq as {setting}; '{names[0]}' is of another type")


def _check_vectors_are_set(settings: SettingValues, field: str) -> None:
    kind, suffix = ("entity", "ent") if field == "ent_id" else ("relation", "rel")
    for key, example in (("preload_weight", f"{{{field}: {suffix}_vec}}"), (f"alias_of_{kind}_id", f"[{field}]")):
        if field not in (settings[key] or ()):
            raise SettingError(
                f"{settings['model']} needs vectors of the {kind} ids: a file {settings['dataset']}.{suffix} with the "
                f"columns {field}:token and {suffix}_vec:float_seq, named in additional_feat_suffix and load_col; and "
                f"--{key}='{example}'"
            )


def _check_vectors(settings: SettingValues, dataset: Dataset, field: str) -> None:
    key = "kg_embedding_size" if settings["model"] == "KSR" else "embedding_size"
    size = dataset._preloaded_weight[field].shape[1:]
    if size != (settings[key],):
        raise SettingError(
            f"{settings['model']}'s vectors of {field} have {'x'.join(map(str, size)) or 1} numbers, but {key} is "
            f"{settings[key]}; set --{key}={size[0] if size else 1}"
        )


def _check_candidates(settings: SettingValues, dataset: Dataset) -> None:
    """Check that there are enough items for the CPR models, which take the best `reranker_CAN_NUM` of all items."""
    _check_best(settings, dataset, "reranker_CAN_NUM", map(int, str(settings["reranker_CAN_NUM"]).split(",")))


def _check_critic(settings: SettingValues, dataset: Dataset) -> None:
    """Check that there are enough items for RaCT's critic, which learns the NDCG of the best `metrics_k` items."""
    if settings["train_stage"] == "critic_pretrain":
        _check_best(settings, dataset, "metrics_k", [settings["metrics_k"]])


def _check_best(settings: SettingValues, dataset: Dataset, key: str, counts: Iterable[int]) -> None:
    most, items = max(counts), dataset.num(settings["ITEM_ID_FIELD"])
    if most > items:
        raise SettingError(
            f"{settings['model']} takes the best {most} items ({key}), but there are {items}; set --{key}={items // 2}"
        )


def _check_towers(settings: SettingValues, dataset: Dataset) -> None:
    """Check DSSM's float fields: its layers count all of them, but it only embeds those in `numerical_features`."""
    sources = [FeatureSource.USER, FeatureSource.ITEM]
    for field in dataset.fields(source=sources, ftype=[FeatureType.FLOAT, FeatureType.FLOAT_SEQ]):
        if field not in settings["numerical_features"]:
            raise SettingError(
                f"DSSM needs every loaded float field in numerical_features, but '{field}' is not there; add it, or "
                "leave it out of load_col"
            )


def _check_float_lists(settings: SettingValues, dataset: Dataset) -> None:
    """Check that FwFM has no lists of numbers: it embeds them, but does not count them as fields."""
    for field in dataset.fields(source=[FeatureSource.USER, FeatureSource.ITEM], ftype=[FeatureType.FLOAT_SEQ]):
        if field in settings["numerical_features"]:
            raise SettingError(f"FwFM takes no fields of type float_seq; leave '{field}' out of numerical_features")


def _check_categories(settings: SettingValues, dataset: Dataset) -> None:
    """Check what LDiffRec needs to cluster items: their vectors and a package."""
    if settings["n_cate"] <= 1:
        return
    path = Path(dataset.dataset_path) / "item_emb.npy"
    if not path.is_file():
        raise DataError(f"LDiffRec with n_cate above 1 needs item vectors in {path}, which does not exist")
    if importlib.util.find_spec("kmeans_pytorch") is None:
        raise SettingError(
            "LDiffRec with n_cate above 1 needs the package 'kmeans_pytorch', which is not installed; "
            "pip install kmeans-pytorch"
        )


_CHECKS: dict[str, Callable[[SettingValues, Dataset], None]] = {
    "DSSM": _check_towers,
    "FwFM": _check_float_lists,
    "GRU4RecCPR": _check_candidates,
    "LDiffRec": _check_categories,
    "RaCT": _check_critic,
    "SASRecCPR": _check_candidates,
}


def check_knowledge(dataset: KnowledgeBasedDataset) -> None:
    """Refuse links that would give wrong entity ids: RecBole assumes one item per entity and one entity per item.

    Args:
        dataset: has `kg_feat` and `item2entity` as RecBole loads them.

    Raises:
        DataError: two items are linked to one entity, or no item is linked to an entity of the `.kg` file.
    """
    items: dict[str, str] = {}
    for item, entity in dataset.item2entity.items():
        if entity in items:
            raise DataError(
                f"{dataset.dataset_name}.link links the items '{items[entity]}' and '{item}' to one entity, "
                f"'{entity}'; RecBole's knowledge-graph models need a separate entity for each item"
            )
        items[entity] = item
    if not items:
        raise DataError(
            f"{dataset.dataset_name}.link links no rated item to an entity of {dataset.dataset_name}.kg; expected the "
            f"columns {dataset.iid_field}:token and {dataset.entity_field}:token"
        )


@contextmanager
def one_line(model: type) -> Iterator[None]:
    """Turn an exception that RecBole raises while it builds one of its models into one line with the model's name.

    This catches what the checks above do not. Exceptions of this package's models pass through: they are bugs.

    Raises:
        SettingError: in place of RecBole's exception.
    """
    try:
        yield
    except (CoraError, MemoryError):
        raise
    except Exception as error:
        if not model.__module__.startswith("recbole.") or "out of memory" in str(error):
            raise
        message = " ".join(str(error).split()) or "no message"
        raise SettingError(
            f"RecBole cannot build {model.__name__} with these data and settings ({type(error).__name__}: {message})"
        ) from error
