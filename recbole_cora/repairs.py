"""Repairs of RecBole 1.2.1 on current libraries. Each function names its cause. No other file patches RecBole."""

from __future__ import annotations

import csv
import importlib
import inspect
import logging
import os
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recbole_cora.errors import CheckpointError, DataError, SettingError, nearest

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataset import Dataset
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import AbstractRecommender


def restore_numpy_aliases() -> None:
    """Restore `np.float_`, `np.complex_` and `np.unicode_`: RecBole's Config reads them, and numpy 2.0 removed them."""
    for name, target in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_")):
        if not hasattr(np, name):
            setattr(np, name, getattr(np, target))


def restore_dok_update() -> None:
    """Restore `dok_matrix._update`: RecBole's LightGCN, NGCF, GCMC, ... call it, and scipy 1.13 removed it."""
    if not hasattr(sp.dok_matrix, "_update"):
        sp.dok_matrix._update = lambda self, entries: self._dict.update(entries)


def make_folders_atomically() -> None:
    """Let several runs create the same folder: RecBole looks for it first, and the slower run fails to create it."""
    for name in ("utils", "utils.utils", "utils.logger", "data.utils", "data.dataset.dataset", "trainer.trainer"):
        module = importlib.import_module(f"recbole.{name}")
        module.ensure_dir = partial(os.makedirs, exist_ok=True)  # type: ignore[attr-defined]


class _LiteralPandas:
    """pandas, but its `read_csv` reads cells literally: no quoting, and only an empty cell is missing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)

    @staticmethod
    def read_csv(*args: Any, **options: Any) -> pd.DataFrame:
        frame = pd.read_csv(*args, **options, quoting=csv.QUOTE_NONE, keep_default_na=False, na_values=[""])
        for name in frame:  # RecBole fills them in place, which has no effect since pandas 3
            if str(name).endswith("_seq"):
                frame[name] = frame[name].fillna("")
        return frame


def read_atomic_files_literally() -> None:
    """Read atomic files without CSV quoting.

    With RecBole's quoting, a title that starts with `"` is an error, a pair of quotes on two lines merges the rows
    between them, and the titles `NA`, `None` and `null` become empty.
    """
    import recbole.data.dataset.dataset as module

    module.pd = _LiteralPandas()


def fill_missing_values() -> None:
    """Fill missing tokens with 0, numbers with their mean, and sequences with empty ones.

    RecBole fills columns in place through a temporary Series. Since pandas 3 (copy-on-write) that has no effect, and no
    error is raised.
    """
    from recbole.data.dataset.dataset import Dataset
    from recbole.utils import FeatureType

    def _fill_nan(self: Dataset) -> None:
        for name in self.feat_name_list:
            frame = getattr(self, name)
            for field in frame:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    frame[field] = frame[field].fillna(value=0)
                elif kind == FeatureType.FLOAT:
                    frame[field] = frame[field].fillna(value=frame[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                    frame[field] = [empty if isinstance(cell, float) else cell for cell in frame[field]]

    Dataset._fill_nan = _fill_nan


def measure_sequences_by_row() -> None:
    """Let `column.agg(len)` return the length of each row's sequence: since pandas 3 it returns that of the column.

    RecBole's dataset modules get a `len` of their own; it differs from Python's for a Series only.
    """

    def length(value: Any) -> Any:
        return value.map(len) if isinstance(value, pd.Series) else len(value)

    for name in ("dataset", "kg_dataset", "sequential_dataset"):
        module = importlib.import_module(f"recbole.data.dataset.{name}")
        module.len = length  # type: ignore[attr-defined]


def stop_anomaly_detection() -> None:
    """Switch off autograd's anomaly detection, which RecBole's SINE module switches on when it is imported.

    Once on, it applies to every model of the process, and each backward step checks every gradient for NaN. That took
    a quarter of CoRA's training time.
    """
    importlib.import_module("recbole.model.sequential_recommender.sine")  # now, so that no later import switches it on
    torch.autograd.set_detect_anomaly(False)


def cap_sample_size_of_dgcf() -> None:
    """Let RecBole's DGCF draw at most as many users and items as there are.

    It draws as many users as items, without replacement: the larger of the two totals, divided by the number of
    batches. It raises if there are fewer users or items than that.
    """
    module: Any = importlib.import_module("recbole.model.general_recommender.dgcf")
    if hasattr(module.sample_cor_samples, "capped"):
        return
    original = module.sample_cor_samples

    def capped(n_users: int, n_items: int, size: int) -> tuple[list[int], list[int]]:
        return original(n_users, n_items, min(size, n_users, n_items))  # type: ignore[no-any-return]

    vars(capped)["capped"] = True
    module.sample_cor_samples = capped


def score_single_rows_with_cpr() -> None:
    """Let RecBole's two CPR models score single rows.

    Their `predict` is `assert False`, because they score all items for each row. For few rows that is fast enough.
    """

    def predict(self: AbstractRecommender, interaction: Interaction) -> Tensor:
        scores: Tensor = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    for name in ("GRU4RecCPR", "SASRecCPR"):
        module = importlib.import_module(f"recbole.model.sequential_recommender.{name.lower()}")
        getattr(module, name).predict = predict


def count_liked_rows_in_pop() -> None:
    """Let RecBole's Pop count the rows with label 1, and count in buffers, so that a checkpoint contains the counts.

    RecBole's version counts an item once per batch, however many rows it has there. It also counts sampled negatives,
    and keeps its counts out of its state_dict.
    """
    module = importlib.import_module("recbole.model.general_recommender.pop")
    pop: Any = module.Pop
    if hasattr(pop, "counts_rows"):
        return
    original = pop.__init__

    def init(self: AbstractRecommender, config: Config, dataset: Dataset) -> None:
        original(self, config, dataset)
        del self.item_cnt, self.max_cnt
        self.label_column = config["LABEL_FIELD"]  # not `LABEL`, by which `is_label_aware` would classify it
        self.register_buffer("item_cnt", torch.zeros(self.n_items, 1, dtype=torch.long))
        self.register_buffer("max_cnt", torch.ones(1, dtype=torch.long))

    def calculate_loss(self: AbstractRecommender, interaction: Interaction) -> Tensor:
        self.item_cnt[:, 0].index_add_(0, interaction[self.ITEM_ID], interaction[self.label_column].long())
        self.max_cnt.copy_(self.item_cnt.max().clamp(min=1))
        return torch.zeros(1, device=self.device, requires_grad=True)

    pop.__init__, pop.calculate_loss, pop.counts_rows = init, calculate_loss, True


class _JoiningLogger:
    """A logger whose `info` joins its arguments with spaces, as `print` does."""

    def info(self, *words: object) -> None:
        logging.getLogger().info("%s", " ".join(map(str, words)))


def join_words_of_log_lines() -> None:
    """Let RecBole's RaCT and DGCF log `info("text", value)` as one line.

    The text has no placeholder for the value, so Python's logging reports an error instead.
    """
    general = importlib.import_module("recbole.model.general_recommender")
    for model in (general.RaCT, general.DGCF):
        model.logger = property(lambda self: _JoiningLogger(), lambda self, logger: None)


class _PatchedModule:
    """A module with some of its names replaced."""

    def __init__(self, module: ModuleType, **replacements: Any) -> None:
        self._module = module
        vars(self).update(replacements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


#: Modules of the RecBole models that read the weights of an earlier training with `torch.load`.
READ_WEIGHTS = (
    "general_recommender.convncf", "general_recommender.nais", "general_recommender.neumf", "general_recommender.ract",
    "context_aware_recommender.kd_dagfm", "sequential_recommender.s3rec",
)  # fmt: skip


def refuse_pickled_weights() -> None:
    """Let six of RecBole's models read initial weights from a run folder of this package, never from a pickle.

    RecBole reads them with `torch.load` from a path in a setting. Its `.pth` files contain a pickled Config: torch
    refuses it with `weights_only=True` and otherwise executes it.
    """
    for name in READ_WEIGHTS:
        module: Any = importlib.import_module(f"recbole.model.{name}")
        module.torch = _PatchedModule(torch, load=_saved_weights)


def _saved_weights(path: str | Path, **_: object) -> dict[str, dict[str, Tensor]]:
    """Read a run folder's safetensors file into the dict that RecBole expects from `torch.load`.

    Raises:
        CheckpointError: there is no such file, or it is not a safetensors file.
    """
    file = Path(str(path))
    file = file / "model.safetensors" if file.is_dir() else file
    try:
        return {"state_dict": load_file(file)}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read weights from {path!r} ({' '.join(str(error).split())}); give the folder of an earlier run of "
            "recbole-cora (RecBole's own .pth files are pickles, which can run code, and are never read)"
        ) from None


def refuse_pickled_vectors() -> None:
    """Let RecBole's LDiffRec read `item_emb.npy` from the dataset's folder as numbers only.

    RecBole reads it with `allow_pickle=True`, so a file that comes with a dataset could run code.
    """
    module: Any = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    module.np = _PatchedModule(np, load=_saved_array)


def _saved_array(path: str | Path, **_: object) -> np.ndarray[Any, Any]:
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read the item vectors {path} ({error}); expected a .npy file of numbers (one with Python objects "
            "is a pickle, which can run code, and is never read)"
        ) from None


def refuse_code_in_teacher_setting() -> None:
    """Replace `eval` in RecBole's KD_DAGFM module, which evaluates the setting `teacher`.

    The replacement only looks up the module's teacher classes by name.
    """
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
    """Apply every repair. A second call changes nothing."""
    restore_numpy_aliases()
    restore_dok_update()
    make_folders_atomically()
    read_atomic_files_literally()
    fill_missing_values()
    measure_sequences_by_row()
    stop_anomaly_detection()
    cap_sample_size_of_dgcf()
    score_single_rows_with_cpr()
    count_liked_rows_in_pop()
    refuse_pickled_weights()
    refuse_pickled_vectors()
    refuse_code_in_teacher_setting()
    join_words_of_log_lines()
