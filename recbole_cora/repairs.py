"""Repairs of RecBole 1.2.1 on current libraries: one function each, with its cause. Nothing else patches RecBole."""

from __future__ import annotations

import csv
import importlib
import inspect
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from recbole_cora.errors import CheckpointError, DataError, SettingError, nearest


def restore_numpy_aliases() -> None:
    """RecBole's Config reads `np.float_`, `np.complex_` and `np.unicode_`, which numpy 2.0 removed."""
    for name, target in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_")):
        if not hasattr(np, name):
            setattr(np, name, getattr(np, target))


def restore_dok_update() -> None:
    """RecBole's LightGCN, NGCF, GCMC, ... fill a matrix by `dok_matrix._update`, which scipy 1.13 removed."""
    if not hasattr(sp.dok_matrix, "_update"):
        sp.dok_matrix._update = lambda self, entries: self._dict.update(entries)


class _LiteralPandas:
    """pandas, with `read_csv` reading tab-separated cells as they stand."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)

    @staticmethod
    def read_csv(*args: Any, **options: Any) -> pd.DataFrame:
        return pd.read_csv(*args, **options, quoting=csv.QUOTE_NONE, keep_default_na=False, na_values=[""])


def read_atomic_files_literally() -> None:
    """RecBole reads atomic files with CSV quoting: a title that starts with `"` is an error, a pair of quotes on two
    lines merges the rows between them, and the titles `NA`, `None` and `null` become empty."""
    import recbole.data.dataset.dataset as module

    module.pd = _LiteralPandas()


def stop_anomaly_detection() -> None:
    """RecBole's SINE module switches autograd's anomaly detection on when imported, for every model of the process:
    each backward step then searches each gradient for nan (here a quarter of CoRA's training time)."""
    importlib.import_module("recbole.model.sequential_recommender.sine")  # now, so that no later import undoes this
    torch.autograd.set_detect_anomaly(False)


def draw_no_more_than_there_are() -> None:
    """RecBole's DGCF draws as many users and items as the larger of the two has in a batch, without replacement: on
    data where the smaller has fewer it raises."""
    module: Any = importlib.import_module("recbole.model.general_recommender.dgcf")
    if hasattr(module.sample_cor_samples, "capped"):
        return
    original = module.sample_cor_samples

    def capped(n_users: int, n_items: int, size: int) -> Any:
        return original(n_users, n_items, min(size, n_users, n_items))

    vars(capped)["capped"] = True
    module.sample_cor_samples = capped


def score_single_rows() -> None:
    """RecBole's two CPR models refuse to score single rows (`assert False`), as all items are scored for each; for a
    few rows that is no hindrance."""

    def predict(self: Any, interaction: Any) -> torch.Tensor:
        scores: torch.Tensor = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    for name in ("GRU4RecCPR", "SASRecCPR"):
        module = importlib.import_module(f"recbole.model.sequential_recommender.{name.lower()}")
        getattr(module, name).predict = predict


def count_rows_of_pop() -> None:
    """RecBole's Pop counts an item once a batch, however many rows of it are there, and sampled negatives as well; and
    no checkpoint holds its counts. Here it counts the rows with label 1, in buffers."""
    module = importlib.import_module("recbole.model.general_recommender.pop")
    pop: Any = module.Pop
    if hasattr(pop, "counts_rows"):
        return
    original = pop.__init__

    def init(self: Any, config: Any, dataset: Any) -> None:
        original(self, config, dataset)
        del self.item_cnt, self.max_cnt
        self.counted = config["LABEL_FIELD"]
        self.register_buffer("item_cnt", torch.zeros(self.n_items, 1, dtype=torch.long))
        self.register_buffer("max_cnt", torch.ones(1, dtype=torch.long))

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        self.item_cnt[:, 0].index_add_(0, interaction[self.ITEM_ID], interaction[self.counted].long())
        self.max_cnt.copy_(self.item_cnt.max().clamp(min=1))
        return torch.zeros(1, device=self.device, requires_grad=True)

    pop.__init__, pop.calculate_loss, pop.counts_rows = init, calculate_loss, True


class _JoiningLogger:
    """A logger whose `info` joins its arguments, as print does."""

    def info(self, *words: Any) -> None:
        logging.getLogger().info("%s", " ".join(map(str, words)))


def join_words_of_log_lines() -> None:
    """RecBole's RaCT and DGCF log by `info("text", value)`, without a place for the value: logging reports an error."""
    general = importlib.import_module("recbole.model.general_recommender")
    for model in (general.RaCT, general.DGCF):
        model.logger = property(lambda self: _JoiningLogger(), lambda self, logger: None)


class _Instead:
    """A module with some of its names replaced."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


#: RecBole's models that read weights of an earlier training by `torch.load`.
READ_WEIGHTS = (
    "general_recommender.convncf", "general_recommender.nais", "general_recommender.neumf", "general_recommender.ract",
    "context_aware_recommender.kd_dagfm", "sequential_recommender.s3rec",
)  # fmt: skip


def read_no_pickled_weights() -> None:
    """Six of RecBole's models begin with weights that `torch.load` reads from a path in a setting. Its `.pth` files
    hold a pickled Config, which torch refuses or, told otherwise, runs. Here they read a run folder of this package."""
    for name in READ_WEIGHTS:
        module: Any = importlib.import_module(f"recbole.model.{name}")
        module.torch = _Instead(torch, load=_saved_weights)


def _saved_weights(path: Any, **_: Any) -> dict[str, Any]:
    """What RecBole expects of `torch.load`, from the safetensors file of a run folder. Raises CheckpointError."""
    file = Path(str(path))
    file = file / "model.safetensors" if file.is_dir() else file
    try:
        return {"state_dict": load_file(file)}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read weights from {path!r} ({' '.join(str(error).split())}); give the folder of an earlier run of "
            "recbole-cora (RecBole's own .pth files are pickles, which can run code: they are never read)"
        ) from None


def read_no_pickled_vectors() -> None:
    """RecBole's LDiffRec reads `item_emb.npy` from the dataset's folder with `allow_pickle=True`: a file that comes
    with a dataset would run code."""
    module: Any = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    module.np = _Instead(np, load=_saved_array)


def _saved_array(path: Any, **_: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read the item vectors {path} ({error}); expected a .npy file of numbers (one with Python objects "
            "is a pickle, which can run code: it is never read)"
        ) from None


def evaluate_no_setting() -> None:
    """RecBole's KD_DAGFM passes the setting `teacher` to `eval`. Its module gets an `eval` of its own, which knows the
    names of the module's classes alone."""
    module: Any = importlib.import_module("recbole.model.context_aware_recommender.kd_dagfm")
    teachers = {
        name: cls
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and hasattr(cls, "FeatureInteraction") and not hasattr(cls, "predict")
    }

    def teacher(name: str) -> type:
        if name not in teachers:
            raise SettingError(
                f"KD_DAGFM's teacher is {name!r}; expected one of {', '.join(teachers)}{nearest(name, teachers)}"
            )
        return teachers[name]

    module.eval = teacher


def apply_all() -> None:
    """Apply every repair; calling it again changes nothing."""
    restore_numpy_aliases()
    restore_dok_update()
    read_atomic_files_literally()
    stop_anomaly_detection()
    draw_no_more_than_there_are()
    score_single_rows()
    count_rows_of_pop()
    read_no_pickled_weights()
    read_no_pickled_vectors()
    evaluate_no_setting()
    join_words_of_log_lines()
