"""Evidence: numbers that CF knows of a row's pair beside the embeddings e_u and e_i. The paper has none.

    score     what the CF encoder itself says of the pair
    averages  the mean label of the user, and that of the item
    colikes   how alike the users are who liked the item and those who liked the row's history
    taste     how the user rated items that share words (genres) with the item

None may have seen the row's own label. A CF model scores the rows it was trained on far better than new ones (MF on
ml-100k: AUC .82 against .79), and a generator trained on such scores trusts them too much and learns nothing beside
them. So scores of train rows are out of fold, as `row_features` are: a number means the same on train, valid and test
rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from recbole_cora.cache import cached
from recbole_cora.cf.pair_features import averages, colikes, random_parts, taste
from recbole_cora.data.protocol import NO_SPLIT, SPLITS
from recbole_cora.data.ratings import Ratings
from recbole_cora.files import content_key
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import VERSION as STAGE_VERSION
from recbole_cora.training.stage import Stage

_TEST = SPLITS.index("test")
#: Of the scores in the cache, in their key: raise it where the same encoder and rows get other out-of-fold scores.
_VERSION = 1


def evidence_of(config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """Return the evidence that `cf_evidence` names, of all rows: [R, m].

    Args:
        config: of the model that reads it.
        encoder: trained.
    """
    columns = [_one_kind(kind, config, encoder) for kind in config["cf_evidence"]]
    return np.column_stack(columns) if columns else np.empty((len(encoder.ratings), 0), dtype=np.float32)


def _one_kind(kind: str, config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """One of `settings.parts.EVIDENCE`, of all rows: [R] or [R, 2]."""
    ratings, folds, seed = encoder.ratings, config["cf_folds"], config["seed"]
    if kind == "averages":
        return averages(ratings, folds, seed)
    if kind == "colikes":
        return colikes(ratings, config["history_items"])
    if kind == "taste":
        return taste(ratings, folds, seed)
    scores = np.empty(len(ratings), dtype=np.float32)
    for split in ("valid", "test"):
        scores[ratings.rows(split)] = encoder.score(split, title=f"score encoder, {split}")
    key = content_key(STAGE_VERSION, _VERSION, encoder.config.content(), ratings.key(), folds)
    kept = Path(config["cache_dir"]) / "encoder_scores" / f"{encoder.config['model']}-{config['dataset']}-{key}"

    def fill(temporary: Path) -> None:
        np.save(temporary / "train.npy", out_of_fold_scores(encoder.config, ratings, folds, temporary))

    scores[ratings.rows("train")] = cached(kept, fill, lambda entry: np.load(entry / "train.npy", allow_pickle=False))
    return scores


def out_of_fold_scores(
    config: CoraConfig, ratings: Ratings, folds: int, scratch: Path | None = None
) -> NDArray[np.float32]:
    """Scores of the train rows, in order [train rows]: each by a model trained on the other `folds` - 1 parts of them.

    A label also stands in the histories of the user's later rows, which a sequential model reads: `leave_out` takes it
    out of those too.

    Args:
        config: the encoder's; each part's model is trained by it, and stops early on the same valid rows.
        folds: at least 2 random parts.
        scratch: where the parts' checkpoints lie meanwhile; None: in the system's folder for temporary files.
    """
    rows, part = random_parts(ratings, folds, config["seed"])
    scores = np.empty(len(rows), dtype=np.float32)
    for fold in range(folds):
        stage = Stage(config, leave_out(ratings, rows[part == fold]))
        name = f"encoder {config['model']}, fold {fold + 1} of {folds}"
        with TemporaryDirectory(dir=scratch) as folder:
            stage.fit(Path(folder), title=name)
            stage.load(Path(folder))
        scores[part == fold] = stage.score("test", title=f"score {name}")
    return scores


def leave_out(ratings: Ratings, rows: NDArray[np.int64]) -> Ratings:
    """Return the same rows with `rows` as the only test rows, and no trace of their labels in what is learned from.

    Every other row, in train (learned from) or valid (stopped by), loses from its history the items that its user rates
    in `rows`, liked or not: whether an item is missing must not depend on the label either. An item that a user rates
    several times is lost with all its ratings, as histories do not say which rating an entry comes from.

    `rows` themselves keep their whole histories, as a test row does: a history holds ratings before the row only, so
    never the row's own label. It may hold other left-out rows of the same user, as a test row's history holds earlier
    test rows: scoring reads them, training has not.

    A prepared file holds the last 50 items of a history: where so many of them are left out that fewer remain than the
    encoder reads (25 by default), how many remain still depends on the labels.
    """
    split = np.where(ratings.split == _TEST, NO_SPLIT, ratings.split).astype(ratings.split.dtype)
    split[rows] = _TEST

    # The user of each entry of `liked`. Histories of one user may share entries (they are slices that begin at one
    # place) or have entries of their own; entries before the first history, or after a user's last one, are in none.
    some = np.flatnonzero(ratings.history_end > ratings.history_start)
    starts, first = np.unique(ratings.history_start[some], return_index=True)
    place = np.searchsorted(starts, np.arange(len(ratings.liked)), side="right")
    user = np.concatenate([[-1], ratings.user[some[first]]])[place]

    items = len(ratings.item_tokens)
    stays = ~np.isin(user * items + ratings.liked, ratings.user[rows] * items + ratings.item[rows])
    before = np.concatenate([[0], np.cumsum(stays)])
    start, end = before[ratings.history_start], before[ratings.history_end]
    start[rows], end[rows] = before[-1] + ratings.history_start[rows], before[-1] + ratings.history_end[rows]
    liked = np.concatenate([ratings.liked[stays], ratings.liked])
    return replace(ratings, split=split, liked=liked, history_start=start, history_end=end)
