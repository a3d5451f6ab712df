"""Features of (user, item) pairs that need no model.

They are mean labels, counts, and measures of how the item relates to the user's history and taste. Those that learn
from labels are fitted on train rows and then asked about any pairs: `MeanLabels`, `CoLikes`, `Taste`.

No feature of a row depends on the row's own label, beyond its share of one in all rows in the global mean. So each
means the same on train, valid and test rows. Train rows are asked out of fold: the features are fitted without the
row's fold. Co-liking leaves out the pair's own user instead.

Legend: R rows, P pairs, H pairs of an asked pair and one of its history items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recbole_cora.data.ratings import Ratings

Indices = NDArray[np.int64]

#: Pseudo-rows in each mean, and pseudo-users in each co-liking count. They make an item with few likes similar to none.
_SMOOTHING = 5.0


class Pairs(NamedTuple):
    """P pairs of a user and an item, each with the items that the user liked before.

    user, item: codes [P].
    liked: item codes; the history of pair `p`, oldest first, is `liked[history_start[p]:history_end[p]]`.
    """

    user: Indices
    item: Indices
    liked: Indices
    history_start: Indices
    history_end: Indices

    @classmethod
    def of(cls, ratings: Ratings, rows: Indices | slice = slice(None)) -> Pairs:
        """Return the pairs of some rows; by default of all."""
        columns = (ratings.user, ratings.item, ratings.liked, ratings.history_start, ratings.history_end)
        user, item, liked, start, end = columns
        return cls(user[rows], item[rows], liked, start[rows], end[rows])


@dataclass(frozen=True)
class MeanLabels:
    """The mean train label of each user [users] and of each item [items].

    Each mean is smoothed by 5 rows of the global mean, so a user or item without train rows gets the global mean.
    """

    by_user: NDArray[np.float64]
    by_item: NDArray[np.float64]

    @classmethod
    def fit(cls, ratings: Ratings, train_rows: Indices) -> MeanLabels:
        """Return the means over some of the train rows."""
        label, global_mean = ratings.label[train_rows], _mean_train_label(ratings)
        by_user = _smoothed_means(ratings.user[train_rows], label, len(ratings.user_tokens), global_mean)
        by_item = _smoothed_means(ratings.item[train_rows], label, len(ratings.item_tokens), global_mean)
        return cls(by_user, by_item)

    def of(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return the means of each pair's user and item: [P, 2]."""
        return np.column_stack([self.by_user[pairs.user], self.by_item[pairs.item]]).astype(np.float32)


@dataclass(frozen=True)
class CoLikes:
    """Who liked what in the train rows.

    likes: 1 where a user liked an item [users, items].
    common_likers: number of users who liked both items [items, items].
    """

    likes: sp.csr_matrix
    common_likers: sp.csr_matrix

    @classmethod
    def fit(cls, ratings: Ratings) -> CoLikes:
        """Return the likes of the train rows."""
        train_rows = ratings.rows("train")
        liked_rows = train_rows[ratings.label[train_rows] > 0.5]
        shape = len(ratings.user_tokens), len(ratings.item_tokens)
        entries = ratings.user[liked_rows], ratings.item[liked_rows]
        likes = sp.csr_matrix((np.ones(len(liked_rows)), entries), shape=shape)
        likes.data[:] = 1.0  # a pair that is rated twice counts once
        return cls(likes, (likes.T @ likes).tocsr())

    def of(self, pairs: Pairs, history_items: int) -> NDArray[np.float32]:
        """Return the mean cosine of each pair's item i with its last `history_items` liked items j: [P].

        cosine(i, j) = n_ij / sqrt((n_i + 5) (n_j + 5)), where n_i users liked i in a train row, and n_ij liked both i
        and j. The pair's own user is not counted. A pair without history gets 0.
        """
        likers = self.common_likers.diagonal()
        pair, i, j, length = _history_pairs(pairs, history_items)
        user = pairs.user[pair]
        user_likes_i, user_likes_j = _entries(self.likes, user, i), _entries(self.likes, user, j)
        n_ij = _entries(self.common_likers, i, j) - user_likes_i * user_likes_j
        n_i, n_j = likers[i] - user_likes_i, likers[j] - user_likes_j
        cosine = n_ij / np.sqrt((n_i + _SMOOTHING) * (n_j + _SMOOTHING))
        return _mean_by_pair(cosine, pair, length)


@dataclass(frozen=True)
class Taste:
    """How much each user likes words, such as genres, of the `.item` file without the title.

    It is the mean of (label - mean label of the item) over the user's train rows whose item has the word, smoothed by 5
    rows of 0. Only words of items that a user has rated are stored, so memory grows with the rows.

    Attributes:
        words: which words each item has [items, words], 1 or 0.
        known: `user * words + word` of each stored liking, in ascending order.
        liking: the likings.
    """

    words: sp.csr_matrix
    known: Indices
    liking: NDArray[np.float64]

    @classmethod
    def fit(cls, ratings: Ratings, train_rows: Indices, words: sp.csr_matrix | None = None) -> Taste:
        """Return the tastes in some of the train rows. `words` are the items' words, if they have been made already."""
        words = _words(ratings) if words is None else words
        user, item, label = (column[train_rows] for column in (ratings.user, ratings.item, ratings.label))
        excess = label - _smoothed_means(item, label, len(ratings.item_tokens), _mean_train_label(ratings))[item]
        row, key = _user_words(words, user, item)
        known, place = np.unique(key, return_inverse=True)
        total, count = np.bincount(place, excess[row], len(known)), np.bincount(place, minlength=len(known))
        return cls(words, known, total / (count + _SMOOTHING))

    def of(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return the mean liking over the words of each pair's item: [P]; 0 if the item has none."""
        pair, key = _user_words(self.words, pairs.user, pairs.item)
        place = np.minimum(np.searchsorted(self.known, key), max(len(self.known) - 1, 0))
        liking = np.where(self.known[place] == key, self.liking[place], 0.0) if len(self.known) else np.zeros(len(key))
        total = np.bincount(pair, liking, len(pairs.user))
        return (total / np.maximum(np.diff(self.words.indptr)[pairs.item], 1)).astype(np.float32)


def averages(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Return the mean train label of each row's user, and of its item: [R, 2], out of fold for train rows."""
    means = np.empty((len(ratings), 2), dtype=np.float32)
    for train_rows, rows in _out_of_fold(ratings, folds, seed):
        means[rows] = MeanLabels.fit(ratings, train_rows).of(Pairs.of(ratings, rows))
    return means


def colikes(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Return the co-liking of each row's item with its last `history_items` liked items: [R] (see `CoLikes.of`)."""
    return CoLikes.fit(ratings).of(Pairs.of(ratings), history_items)


def taste(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Return how much each row's user likes the words of its item: [R], out of fold for train rows."""
    words = _words(ratings)
    values = np.empty(len(ratings), dtype=np.float32)
    for train_rows, rows in _out_of_fold(ratings, folds, seed):
        values[rows] = Taste.fit(ratings, train_rows, words).of(Pairs.of(ratings, rows))
    return values


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


def overlap(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Return the mean Jaccard overlap of the item's words with those of each last liked item: [R]; 0 without history.

    Args:
        history_items: number of last liked items.
    """
    words = _words(ratings)
    words_of_item = np.asarray(words.sum(axis=1)).reshape(-1)
    row, i, j, length = _history_pairs(Pairs.of(ratings), history_items)
    common = np.asarray(words[i].multiply(words[j]).sum(axis=1)).reshape(-1)
    jaccard = common / np.maximum(words_of_item[i] + words_of_item[j] - common, 1)
    return _mean_by_pair(jaccard, row, length)


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


def _user_words(words: sp.csr_matrix, user: Indices, item: Indices) -> tuple[Indices, Indices]:
    """Return the index of a pair, and `user * words + word`, for each word of each pair's item."""
    length = np.diff(words.indptr)[item]
    pair, place = _ranges(length)
    word = words.indices[np.repeat(words.indptr[item], length) + place]
    return pair, user[pair] * np.int64(words.shape[1]) + word


def _ranges(length: Indices) -> tuple[Indices, Indices]:
    """Return, for lengths such as [2, 3], the indices [0, 0, 1, 1, 1] and the places [0, 1, 0, 1, 2]."""
    ends = np.cumsum(length)
    return np.repeat(np.arange(len(length)), length), np.arange(length.sum()) - np.repeat(ends - length, length)


class _HistoryPairs(NamedTuple):
    """All pairs of an asked pair and one of its history items.

    pair: index of the asked pair [H].
    item, history_item: its item, and the history item [H].
    length: number of history items of each asked pair [P].
    """

    pair: Indices
    item: Indices
    history_item: Indices
    length: Indices


def _history_pairs(pairs: Pairs, last: int) -> _HistoryPairs:
    """Return the pairs of each asked pair with its `last` history items, or with all if there are fewer."""
    length = np.minimum(pairs.history_end - pairs.history_start, last)
    pair, place = _ranges(length)
    history_item = pairs.liked[np.repeat(pairs.history_end - length, length) + place]
    return _HistoryPairs(pair, pairs.item[pair], history_item, length)


def _mean_by_pair(values: NDArray[np.float64], pair: Indices, length: Indices) -> NDArray[np.float32]:
    """Return the mean of each pair's values: [P]; 0 for a pair without any."""
    total = np.bincount(pair, weights=values, minlength=len(length))
    return (total / np.maximum(length, 1)).astype(np.float32)


def _entries(matrix: sp.csr_matrix, row: Indices, column: Indices) -> NDArray[np.float64]:
    """Return the entries of a sparse matrix at these rows and columns."""
    return np.asarray(matrix[row, column]).reshape(-1)
