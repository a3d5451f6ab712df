"""Features of a row's (user, item) pair that need no model.

They are mean labels, counts, and measures of how the item relates to the user's history and taste.

No feature depends on the row's own label, beyond its share of one in all rows in the global mean. So each means the
same on train, valid and test rows. On train rows, features that use labels are out-of-fold, except co-liking, which
leaves out the row's own user.

Legend: R rows, P pairs of a row and one of its history items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recbole_cora.data.ratings import Ratings

Indices = NDArray[np.int64]

#: Pseudo-rows in each mean, and pseudo-users in each co-liking count. They make an item with few likes similar to none.
_SMOOTHING = 5.0


def averages(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Return the mean train label of each row's user, and of its item: [R, 2], out of fold for train rows.

    Each mean is smoothed by 5 rows of the global mean, so a user or item without train rows gets the global mean.
    """
    global_mean = _mean_train_label(ratings)
    means = np.empty((len(ratings), 2), dtype=np.float32)
    for train_rows, rows in _out_of_fold(ratings, folds, seed):
        for column, ids in enumerate((ratings.user, ratings.item)):
            mean_by_id = _smoothed_means(ids[train_rows], ratings.label[train_rows], int(ids.max()) + 1, global_mean)
            means[rows, column] = mean_by_id[ids[rows]]
    return means


def colikes(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Return the mean cosine of each row's item i with its last `history_items` liked items j: [R]; 0 without history.

    cosine(i, j) = n_ij / sqrt((n_i + 5) (n_j + 5)), where n_i users liked i in a train row, and n_ij liked both i and
    j. The row's own user is not counted.
    """
    train_rows = ratings.rows("train")
    liked_rows = train_rows[ratings.label[train_rows] > 0.5]
    shape = len(ratings.user_tokens), len(ratings.item_tokens)
    pairs = ratings.user[liked_rows], ratings.item[liked_rows]
    likes = sp.csr_matrix((np.ones(len(liked_rows)), pairs), shape=shape)  # [users, items]
    likes.data[:] = 1.0  # a pair that is rated twice counts once
    common_likers = (likes.T @ likes).tocsr()  # [items, items]
    likers = common_likers.diagonal()

    row, i, j, length = _history_pairs(ratings, history_items)
    user = ratings.user[row]
    user_likes_i, user_likes_j = _entries(likes, user, i), _entries(likes, user, j)
    n_ij = _entries(common_likers, i, j) - user_likes_i * user_likes_j
    n_i, n_j = likers[i] - user_likes_i, likers[j] - user_likes_j
    cosine = n_ij / np.sqrt((n_i + _SMOOTHING) * (n_j + _SMOOTHING))
    return _mean_by_row(cosine, row, length)


def counts(ratings: Ratings) -> NDArray[np.float32]:
    """Return log(1 + n) of three counts: [R, 3].

    The counts are the other train rows of the row's user, the other train rows of its item, and its history items.
    """
    train_rows = ratings.rows("train")
    is_train_row = np.zeros(len(ratings))
    is_train_row[train_rows] = 1
    other_rows = [
        np.bincount(ids[train_rows], minlength=int(ids.max()) + 1)[ids] - is_train_row
        for ids in (ratings.user, ratings.item)
    ]
    history_items = ratings.history_end - ratings.history_start
    return np.log1p(np.column_stack([*other_rows, history_items])).astype(np.float32)


def taste(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Return how much each row's user likes the words of its item: [R], out of fold for train rows.

    Words are those of the `.item` file without the title (genres, year). How much a user likes a word is the mean of
    (label - mean label of the item) over the user's train rows whose item has the word, smoothed by 5 rows of 0. A row
    gets the mean over the words of its item, or 0 if the item has none.
    """
    words = _words(ratings)
    words_of_item = np.maximum(np.asarray(words.sum(axis=1)).reshape(-1), 1)  # [items]
    global_mean = _mean_train_label(ratings)
    shape = len(ratings.user_tokens), len(ratings.item_tokens)
    values = np.zeros(len(ratings), dtype=np.float32)
    for train_rows, rows in _out_of_fold(ratings, folds, seed):
        user, item, label = (column[train_rows] for column in (ratings.user, ratings.item, ratings.label))
        excess = label - _smoothed_means(item, label, len(ratings.item_tokens), global_mean)[item]
        total = (sp.csr_matrix((excess, (user, item)), shape=shape) @ words).toarray()  # [users, words]
        count = (sp.csr_matrix((np.ones(len(train_rows)), (user, item)), shape=shape) @ words).toarray()
        liking = total / (count + _SMOOTHING)
        user, item = ratings.user[rows], ratings.item[rows]
        total_liking = np.asarray(words[item].multiply(liking[user]).sum(axis=1)).reshape(-1)
        values[rows] = total_liking / words_of_item[item]
    return values


def overlap(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Return the mean Jaccard overlap of the item's words with those of each last liked item: [R]; 0 without history.

    Args:
        history_items: number of last liked items.
    """
    words = _words(ratings)
    words_of_item = np.asarray(words.sum(axis=1)).reshape(-1)
    row, i, j, length = _history_pairs(ratings, history_items)
    common = np.asarray(words[i].multiply(words[j]).sum(axis=1)).reshape(-1)
    jaccard = common / np.maximum(words_of_item[i] + words_of_item[j] - common, 1)
    return _mean_by_row(jaccard, row, length)


def random_folds(ratings: Ratings, folds: int, seed: int) -> tuple[Indices, Indices]:
    """Return the train rows, and the random fold of each."""
    train_rows = ratings.rows("train")
    return train_rows, np.random.default_rng(seed).permutation(len(train_rows)) % folds


def _out_of_fold(ratings: Ratings, folds: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield the train rows outside a fold and the rows of that fold; last, all train rows and all other rows."""
    train_rows, train_fold = random_folds(ratings, folds, seed)
    fold_of_row = np.full(len(ratings), folds)
    fold_of_row[train_rows] = train_fold
    for fold in range(folds + 1):
        yield train_rows[train_fold != fold], np.flatnonzero(fold_of_row == fold)


def _mean_train_label(ratings: Ratings) -> float:
    return float(ratings.label[ratings.rows("train")].mean())  # with a float32, numpy 2 would continue in float32


def _smoothed_means(ids: Indices, labels: NDArray[np.float32], size: int, global_mean: float) -> NDArray[np.float64]:
    """Return the mean label by id: [size], each smoothed by 5 rows of the global mean."""
    likes, rows = np.bincount(ids, labels, minlength=size), np.bincount(ids, minlength=size)
    means: NDArray[np.float64] = (likes + _SMOOTHING * global_mean) / (rows + _SMOOTHING)
    return means


def _words(ratings: Ratings) -> sp.csr_matrix:
    """Return which words the text of each item has: [items, words], 1 or 0."""
    words_of_item = [dict.fromkeys(text.split()) for text in ratings.item_text]  # ordered, unlike a set
    vocabulary: dict[str, int] = {}
    for words in words_of_item:
        for word in words:
            vocabulary.setdefault(word, len(vocabulary))
    entries = [(item, vocabulary[word]) for item, words in enumerate(words_of_item) for word in sorted(words)]
    rows, columns = np.array(entries, dtype=np.int64).reshape(-1, 2).T
    shape = (len(words_of_item), max(len(vocabulary), 1))
    return sp.csr_matrix((np.ones(len(entries)), (rows, columns)), shape=shape)


class _HistoryPairs(NamedTuple):
    """All pairs of a row and one of its history items.

    row, item, history_item: the row, its item, and the history item of each pair [P].
    length: number of pairs of each row [R].
    """

    row: Indices
    item: Indices
    history_item: Indices
    length: Indices


def _history_pairs(ratings: Ratings, last: int) -> _HistoryPairs:
    """Return the pairs of each row with its `last` history items, or with all if there are fewer."""
    length = np.minimum(ratings.history_end - ratings.history_start, last)
    row = np.repeat(np.arange(len(ratings)), length)
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)  # 0, 1, ... in each history
    history_item = ratings.liked[np.repeat(ratings.history_end - length, length) + place]
    return _HistoryPairs(row, ratings.item[row], history_item, length)


def _mean_by_row(values: NDArray[np.float64], row: Indices, length: Indices) -> NDArray[np.float32]:
    """Return the mean of each row's values: [R]; 0 for a row without any."""
    total = np.bincount(row, weights=values, minlength=len(length))
    return (total / np.maximum(length, 1)).astype(np.float32)


def _entries(matrix: sp.csr_matrix, row: Indices, column: Indices) -> NDArray[np.float64]:
    """Return the entries of a sparse matrix at these rows and columns."""
    return np.asarray(matrix[row, column]).reshape(-1)
