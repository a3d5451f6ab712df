"""Evidence: numbers that CF knows of a row's pair beside the embeddings e_u and e_i. The paper has none.

    score     what the CF encoder itself says of the pair
    averages  the mean label of the user, and that of the item
    colikes   how alike the users are who liked the item and those who liked the row's history

None may have seen the row's own label. A CF model scores the rows it was trained on far better than new ones (MF on
ml-100k: AUC .82 against .79), and a generator trained on such scores trusts them too much and learns nothing beside
them. So scores and averages of train rows are out of fold, and co-liking leaves the row's own user out: a number means
the same on train, valid and test rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recbole_cora.protocol import NO_SPLIT, SPLITS
from recbole_cora.ratings import Ratings
from recbole_cora.settings import CoraConfig
from recbole_cora.stage import Stage

EVIDENCE = ("score", "averages", "colikes")
_TEST = SPLITS.index("test")
#: Pseudo-users of co-liking (an item that few liked is like no other), pseudo-rows of averages.
_SMOOTHING = 5.0


def out_of_fold_scores(config: CoraConfig, ratings: Ratings, folds: int) -> NDArray[np.float32]:
    """Scores of the train rows, in order [train rows]: each by a model trained on the other `folds` - 1 parts of them.

    Args:
        config: the encoder's; each part's model is trained by it, and stops early on the same valid rows.
        folds: at least 2 random parts.
    """
    rows, part = _parts(ratings, folds, config["seed"])
    scores = np.empty(len(rows), dtype=np.float32)
    for fold in range(folds):
        split = np.where(ratings.split == _TEST, NO_SPLIT, ratings.split).astype(ratings.split.dtype)
        split[rows[part == fold]] = _TEST
        stage = Stage(config, replace(ratings, split=split))
        name = f"encoder {config['model']}, fold {fold + 1} of {folds}"
        with TemporaryDirectory() as folder:
            stage.fit(Path(folder), title=name)
            stage.load(Path(folder))
        scores[part == fold] = stage.score("test", title=f"score {name}")
    return scores


def averages(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Of every row [R, 2]: the mean train label of its user and of its item; of a train row, that of the other parts.

    Each mean is smoothed by 5 rows of the global mean, which it is for a user or item that train does not know.
    """
    rows, part = _parts(ratings, folds, seed)
    mean = ratings.label[rows].mean()
    found = np.empty((len(ratings), 2), dtype=np.float32)
    of_part = np.full(len(ratings), folds)  # valid and test rows take the means of all parts
    of_part[rows] = part
    for fold in range(folds + 1):
        known, asked = rows[part != fold], of_part == fold
        for column, codes in enumerate((ratings.user, ratings.item)):
            size = int(codes.max()) + 1
            liked = np.bincount(codes[known], ratings.label[known], minlength=size)
            count = np.bincount(codes[known], minlength=size)
            found[asked, column] = ((liked + _SMOOTHING * mean) / (count + _SMOOTHING))[codes[asked]]
    return found


def colikes(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Of every row [R]: mean cosine of its item i with its last `history_items` liked items j; 0 without history.

    cosine(i, j) = n_ij / sqrt((n_i + a) (n_j + a)): n users liked both, or one, in a train row; the row's own user is
    left out of every n.
    """
    rows = ratings.rows("train")
    rows = rows[ratings.label[rows] > 0.5]
    shape = len(ratings.user_tokens), len(ratings.item_tokens)
    liked = sp.csr_matrix((np.ones(len(rows)), (ratings.user[rows], ratings.item[rows])), shape=shape)
    liked.data[:] = 1.0  # a pair rated twice counts once
    together = (liked.T @ liked).tocsr()
    count = together.diagonal()

    length = np.minimum(ratings.history_end - ratings.history_start, history_items)
    row = np.repeat(np.arange(len(ratings)), length)  # every (row, history item), flat
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    user, i = ratings.user[row], ratings.item[row]
    j = ratings.liked[np.repeat(ratings.history_end - length, length) + place]
    own_i, own_j = _at(liked, user, i), _at(liked, user, j)
    both = _at(together, i, j) - own_i * own_j
    cosine = both / np.sqrt((count[i] - own_i + _SMOOTHING) * (count[j] - own_j + _SMOOTHING))
    total = np.bincount(row, weights=cosine, minlength=len(ratings))
    return (total / np.maximum(length, 1)).astype(np.float32)


def _parts(ratings: Ratings, folds: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The train rows, and the random part that each is in."""
    rows = ratings.rows("train")
    return rows, np.random.default_rng(seed).permutation(len(rows)) % folds


def _at(matrix: sp.csr_matrix, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(matrix[row, column]).reshape(-1)
