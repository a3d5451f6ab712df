"""Evidence: numbers about a row's pair that CF adds to the embeddings e_u and e_i. The paper uses none.

    score     the CF encoder's own score of the pair
    averages  the mean label of the user, and that of the item
    colikes   how much the users who liked the item overlap with those who liked the history items
    taste     how the user rated items that share words (genres) with the item

No evidence may depend on the row's own label. A CF model scores the rows it was trained on far better than new ones
(MF on ml-100k: AUC .82 against .79). A generator trained on such scores trusts them too much and learns nothing else.
The scores of train rows are therefore out of fold, like the features of `pair_features`: they mean the same on train,
valid and test rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from recbole_cora.cache import cached
from recbole_cora.cf.pair_features import averages, colikes, random_folds, taste
from recbole_cora.data.protocol import NO_SPLIT, SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.files import content_key
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import VERSION as STAGE_VERSION
from recbole_cora.training.stage import Stage

_TEST = SPLITS.index("test")
#: Part of the cache key of out-of-fold scores. Raise it when the same encoder and rows get other out-of-fold scores.
_VERSION = 1


def evidence_of(config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """Return the evidence that `cf_evidence` names, for all rows: [R, m].

    Args:
        config: the config of the model that reads the evidence.
        encoder: the trained encoder.
    """
    columns = [_evidence_of_kind(kind, config, encoder) for kind in config["cf_evidence"]]
    return np.column_stack(columns) if columns else np.empty((len(encoder.ratings), 0), dtype=np.float32)


def _evidence_of_kind(kind: str, config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """Return one kind of `settings.parts.EVIDENCE` for all rows: [R] or [R, 2]."""
    ratings, folds, seed = encoder.ratings, config["cf_folds"], config["seed"]
    if kind == "averages":
        return averages(ratings, folds, seed)
    if kind == "colikes":
        return colikes(ratings, config["history_items"])
    if kind == "taste":
        return taste(ratings, folds, seed)
    return _encoder_scores(config, encoder)


def _encoder_scores(config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """Return the encoder's scores of all rows: [R]. Those of train rows are out of fold, and cached."""
    ratings, folds = encoder.ratings, config["cf_folds"]
    scores = np.empty(len(ratings), dtype=np.float32)
    for split in ("valid", "test"):
        scores[ratings.rows(split)] = encoder.score(split, title=f"score encoder, {split}")
    key = content_key(STAGE_VERSION, _VERSION, encoder.config.content(), ratings.key(), folds)
    folder = Path(config["cache_dir"]) / "encoder_scores" / f"{encoder.config['model']}-{config['dataset']}-{key}"

    def fill(temporary: Path) -> None:
        np.save(temporary / "train.npy", out_of_fold_scores(encoder.config, ratings, folds, temporary))

    scores[ratings.rows("train")] = cached(folder, fill, lambda entry: np.load(entry / "train.npy", allow_pickle=False))
    return scores


def out_of_fold_scores(
    config: CoraConfig, ratings: Ratings, folds: int, scratch: Path | None = None
) -> NDArray[np.float32]:
    """Return the scores of the train rows, in order, each by a model trained on the `folds` - 1 folds without the row.

    A row's label also appears in the histories of the user's later rows, which a sequential model reads: `leave_out`
    removes it from those too.

    Args:
        config: the encoder's config. It trains the model of each fold, with early stopping on the same valid rows.
        folds: number of random folds, at least 2.
        scratch: folder for the temporary checkpoints of the folds; None: the system's folder for temporary files.
    """
    train_rows, fold_of_row = random_folds(ratings, folds, config["seed"])
    scores = np.empty(len(train_rows), dtype=np.float32)
    for fold in range(folds):
        in_fold = fold_of_row == fold
        stage = Stage(config, leave_out(ratings, train_rows[in_fold]))
        name = f"encoder {config['model']}, fold {fold + 1} of {folds}"
        with TemporaryDirectory(dir=scratch) as folder:
            stage.fit(Path(folder), title=name)
            stage.load(Path(folder))
        scores[in_fold] = stage.score("test", title=f"score {name}")
    return scores


def leave_out(ratings: Ratings, rows: NDArray[np.int64]) -> Ratings:
    """Return the same rows with `rows` as the only test rows, and no trace of their labels in what a model learns from.

    Every other row loses from its history the items that its user rates in `rows`, liked or not: whether an item is
    missing must not depend on the label either. Valid rows lose them too, as they decide when training stops. An item
    that a user rates several times is removed completely, as histories do not say which rating an entry comes from.

    The rows left out keep their whole histories, as test rows do. A history holds only ratings before the row, so never
    the row's own label. It may hold other left-out rows of the same user, just as the history of a test row holds
    earlier test rows. Scoring reads the labels of those rows, but training does not.

    A prepared file holds the last 50 items of a history. If so many of them are left out that fewer remain than the
    encoder reads (25 by default), their number still depends on the labels.
    """
    split = np.where(ratings.split == _TEST, NO_SPLIT, ratings.split).astype(ratings.split.dtype)
    split[rows] = _TEST

    # The user of each entry of `liked`. Histories of one user either share their entries (all are slices with the same
    # start) or each have their own. Entries before the first history, or after a user's last one, are in no history.
    with_history = np.flatnonzero(ratings.history_end > ratings.history_start)
    starts, first = np.unique(ratings.history_start[with_history], return_index=True)
    latest_start = np.searchsorted(starts, np.arange(len(ratings.liked)), side="right")
    user = np.concatenate([[-1], ratings.user[with_history[first]]])[latest_start]

    items = len(ratings.item_tokens)
    keep = ~np.isin(user * items + ratings.liked, ratings.user[rows] * items + ratings.item[rows])
    # The new `liked` is the entries to keep, for all other rows, and then all entries, for the rows left out.
    entries_before = np.concatenate([[0], np.cumsum(keep)])
    start, end = entries_before[ratings.history_start], entries_before[ratings.history_end]
    offset = entries_before[-1]
    start[rows], end[rows] = offset + ratings.history_start[rows], offset + ratings.history_end[rows]
    liked = np.concatenate([ratings.liked[keep], ratings.liked])
    return replace(ratings, split=split, liked=liked, history_start=start, history_end=end)
