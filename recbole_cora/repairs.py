"""Repairs of RecBole 1.2.1 on current libraries: one function each, with its cause. Nothing else patches RecBole."""

from __future__ import annotations

import csv
import importlib
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch


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


def apply_all() -> None:
    """Apply every repair; calling it again changes nothing."""
    restore_numpy_aliases()
    restore_dok_update()
    read_atomic_files_literally()
    stop_anomaly_detection()
