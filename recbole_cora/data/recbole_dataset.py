"""RecBole datasets made from our rows: the same rows, labels, splits and histories for every model.

Each of RecBole's dataset classes gets our rows instead of reading and splitting the `.inter` file itself. RecBole still
reads the user and item features of context models.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.data.recbole_needs import check_knowledge
from recbole_cora.errors import DataError

if TYPE_CHECKING:
    from recbole_cora.settings.recbole_config import CoraConfig

#: Interaction field with the index of the row in `Ratings`. It is int64: a RecBole float is inexact above 2^24.
ROW = "row"

_TYPE_TO_DATASET = {
    ModelType.SEQUENTIAL: "SequentialDataset",
    ModelType.KNOWLEDGE: "KnowledgeBasedDataset",
}


class _RowsMixin(Dataset):
    """Replaces loading, filtering, labelling, augmentation and splitting of a RecBole dataset class."""

    def __init__(self, config: CoraConfig, ratings: Ratings, history_length: int | None) -> None:
        self.ratings, self.history_length = ratings, history_length
        super().__init__(config)

    def _load_data(self, token: str, dataset_path: str) -> None:
        r = self.ratings
        self.inter_feat = pd.DataFrame(
            {self.uid_field: r.user_tokens[r.user], self.iid_field: r.item_tokens[r.item], self.label_field: r.label}
        )
        for field, source in ((self.uid_field, FeatureSource.USER_ID), (self.iid_field, FeatureSource.ITEM_ID)):
            self.field2type[field], self.field2source[field], self.field2seqlen[field] = FeatureType.TOKEN, source, 1
        self.set_field_property(self.label_field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        self.user_feat = self._features(token, dataset_path, FeatureSource.USER, "uid_field")
        self.item_feat = self._features(token, dataset_path, FeatureSource.ITEM, "iid_field")
        self._load_additional_feat(token, dataset_path)
        if isinstance(self, KnowledgeBasedDataset):
            self._load_knowledge(token, dataset_path)

    def _load_knowledge(self, token: str, path: str) -> None:
        """Load the triples of the `.kg` file and the links between items and entities of the `.link` file.

        Raises:
            DataError: a file is missing, or lacks a column.
        """
        graph = (self.head_entity_field, self.relation_field, self.tail_entity_field)
        for suffix, fields in (("kg", graph), ("link", (self.iid_field, self.entity_field))):
            _check_columns(Path(path) / f"{token}.{suffix}", fields, self.config)
        self.kg_feat = self._load_kg(token, path)
        self.item2entity, self.entity2item = self._load_link(token, path)

    def _get_load_and_unload_col(self, source: FeatureSource | str) -> tuple[set[str] | None, set[str] | None]:
        """Return what RecBole returns, except that knowledge graph files are read whole if `load_col` omits them."""
        load, unload = super()._get_load_and_unload_col(source)
        whole = load == set() and source in (FeatureSource.KG, "link")
        return (None if whole else load), unload

    def _features(self, token: str, path: str, source: FeatureSource, field: str) -> pd.DataFrame | None:
        """Return the features of the rated users or items; None if `load_col` does not name their file."""
        if source.value not in (self.config["load_col"] or {}):
            return None
        feat = self._load_user_or_item_feat(token, path, source, field)
        rated_ids = self.inter_feat[getattr(self, field)]
        # Ids without a rating would only enlarge the vocabulary. Rated ids without features keep their rows.
        return None if feat is None else feat[feat[getattr(self, field)].isin(rated_ids)].reset_index(drop=True)

    def get_preload_weight(self, field: str) -> NDArray[np.float32]:
        """Return preloaded vectors [ids, d] as float32. RecBole returns float64, which its KSR cannot use."""
        return super().get_preload_weight(field).astype(np.float32)

    def _data_filtering(self) -> None:
        """Filter only a knowledge graph's triples and links: the rows are final before RecBole sees them."""
        if not isinstance(self, KnowledgeBasedDataset):
            return
        self._filter_kg_by_triple_num()
        self.kg_feat = self.kg_feat.reset_index(drop=True)
        entities = set(self.kg_feat[self.head_entity_field]) | set(self.kg_feat[self.tail_entity_field])
        items = set(self.inter_feat[self.iid_field])
        links = {item: entity for item, entity in self.item2entity.items() if item in items and entity in entities}
        self.item2entity, self.entity2item = links, {entity: item for item, entity in links.items()}
        check_knowledge(self)  # unlike RecBole, items without a link keep their rows: every model has the same rows

    def _set_label_by_threshold(self) -> None:
        """Do nothing: labels are final before RecBole sees them."""

    def _change_feat_format(self) -> None:
        Dataset._change_feat_format(self)  # not SequentialDataset's: its augmentation adds disliked items to histories
        self.inter_feat.update(Interaction({ROW: torch.arange(len(self.ratings))}))
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            self._attach_histories(self.config["MAX_ITEM_LIST_LENGTH"])
        elif self.history_length is not None:
            self._attach_histories(self.history_length)

    def _attach_histories(self, last: int) -> None:
        """Add each row's liked history as RecBole ids [R, T], oldest first and padded right with zeros, and its length.

        An empty history has length 1, one padding item: RecBole's gather at `length - 1` needs a position to read.
        """
        r = self.ratings
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        length_field = self.config["ITEM_LIST_LENGTH_FIELD"]
        self.item_id_list_field, self.item_list_length_field = list_field, length_field
        self.set_field_property(list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, last)
        self.set_field_property(length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        ids = np.asarray(self.token2id(self.iid_field, r.item_tokens))
        length = np.minimum(r.history_end - r.history_start, last)
        column = np.arange(last)
        position = (r.history_end - length)[:, None] + column
        present = column < length[:, None]
        if len(r.liked):
            lists = np.where(present, ids[r.liked[np.where(present, position, 0)]], 0)
        else:
            lists = np.zeros(present.shape, dtype=np.int64)
        fields = {list_field: torch.from_numpy(lists), length_field: torch.from_numpy(np.maximum(length, 1))}
        if hasattr(self, "neg_item_list_field"):  # DIEN: a random other item for each item of the history
            other = np.random.default_rng(self.config["seed"]).integers(1, max(2, self.item_num - 1), len(r.liked))
            other += other >= ids[r.liked]
            negatives = np.where(present, other[np.where(present, position, 0)], 0) if len(r.liked) else lists
            fields[self.neg_item_list_field] = torch.from_numpy(negatives)
        self.inter_feat.update(Interaction(fields))

    def build(self) -> list[Dataset]:
        """Return the three splits. A model that ignores labels is trained on the liked rows only."""
        self._change_feat_format()
        parts = []
        for split in SPLITS:
            rows = self.ratings.rows(split)
            if split == "train" and not self.config.label_aware:
                rows = rows[self.ratings.label[rows] > 0.5]
            parts.append(self.copy(self.inter_feat[torch.from_numpy(rows)]))
        return parts


def _check_columns(path: Path, fields: tuple[str, ...], config: CoraConfig) -> None:
    """Raise DataError if an atomic file is missing or lacks one of these columns."""
    try:
        with path.open(encoding=config["encoding"]) as file:
            header = file.readline().rstrip("\r\n")
    except OSError as error:
        raise DataError(f"{config['model']} needs the file {path}, which cannot be read ({error.strerror})") from None
    columns = [column.split(":")[0] for column in header.split(config["field_separator"])]
    for field in fields:
        if field not in columns:
            raise DataError(f"{path} has no column '{field}:token' (it has {', '.join(columns)})")


def make_dataset(config: CoraConfig, ratings: Ratings, history_length: int | None = None) -> Dataset:
    """Return RecBole's dataset for this model, made from our rows.

    Args:
        history_length: number of latest liked items to attach to each row; None attaches none. A sequential model
            always gets MAX_ITEM_LIST_LENGTH items.
    """
    module = importlib.import_module("recbole.data.dataset")
    name = f"{config['model']}Dataset"
    base = getattr(module, name if hasattr(module, name) else _TYPE_TO_DATASET.get(config["MODEL_TYPE"], "Dataset"))
    return type(f"Rows{base.__name__}", (_RowsMixin, base), {})(config, ratings, history_length)
