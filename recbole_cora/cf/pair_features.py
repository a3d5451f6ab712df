"""Numbers about a row's pair that need no model: averages, counts, and how the item relates to the user's history.

None has seen the row's own label, so that each means the same on train, valid and test rows: averages of train rows are
out of fold, and co-liking leaves the row's own user out.

Legend: R rows.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recbole_cora.data.ratings import Ratings

#: Pseudo-users of co-liking (an item that few liked is like no other), pseudo-rows of averages.
_SMOOTHING = 5.0


def averages(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Of every row [R, 2]: the mean train label of its user and of its item; of a train row, that of the other parts.

    Each mean is smoothed by 5 rows of the global mean, which it is for a user or item that train does not know.
    """
    rows, part = random_parts(ratings, folds, seed)
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

    row, i, j, length = _history_pairs(ratings, history_items)
    user = ratings.user[row]
    own_i, own_j = _at(liked, user, i), _at(liked, user, j)
    both = _at(together, i, j) - own_i * own_j
    cosine = both / np.sqrt((count[i] - own_i + _SMOOTHING) * (count[j] - own_j + _SMOOTHING))
    total = np.bincount(row, weights=cosine, minlength=len(ratings))
    return (total / np.maximum(length, 1)).astype(np.float32)


def counts(ratings: Ratings) -> NDArray[np.float32]:
    """Of every row [R, 3]: log(1 + n) of the other train rows of its user, and of its item, and of earlier likes."""
    rows = ratings.rows("train")
    own = np.zeros(len(ratings))
    own[rows] = 1
    known = [np.bincount(codes[rows], minlength=int(codes.max()) + 1)[codes] for codes in (ratings.user, ratings.item)]
    before = ratings.history_end - ratings.history_start
    return np.log1p(np.column_stack([*(n - own for n in known), before])).astype(np.float32)


def taste(ratings: Ratings, folds: int, seed: int) -> NDArray[np.float32]:
    """Of every row [R]: how far the user's labels of items with words in common lie above those items' means.

    Words are those of the `.item` file beside the title (genres, year). A user's liking of a word is the mean of
    (label - item mean) over the train rows whose item has it, smoothed by 5 rows of 0; a row has the mean over its
    item's words, 0 where there are none. Train rows are out of fold.
    """
    words = _words(ratings)
    size = np.maximum(np.asarray(words.sum(axis=1)).reshape(-1), 1)
    rows, part = random_parts(ratings, folds, seed)
    mean = ratings.label[rows].mean()
    found = np.zeros(len(ratings), dtype=np.float32)
    of_part = np.full(len(ratings), folds)
    of_part[rows] = part
    for fold in range(folds + 1):
        known, asked = rows[part != fold], np.flatnonzero(of_part == fold)
        user, item, label = (column[known] for column in (ratings.user, ratings.item, ratings.label))
        count = np.bincount(item, minlength=len(ratings.item_tokens))
        liked = np.bincount(item, label, minlength=len(ratings.item_tokens))
        above = label - ((liked + _SMOOTHING * mean) / (count + _SMOOTHING))[item]
        shape = len(ratings.user_tokens), len(ratings.item_tokens)
        total = (sp.csr_matrix((above, (user, item)), shape=shape) @ words).toarray()  # [users, words]
        seen = (sp.csr_matrix((np.ones(len(known)), (user, item)), shape=shape) @ words).toarray()
        likes = total / (seen + _SMOOTHING)
        user, item = ratings.user[asked], ratings.item[asked]
        found[asked] = np.asarray(words[item].multiply(likes[user]).sum(axis=1)).reshape(-1) / size[item]
    return found


def overlap(ratings: Ratings, history_items: int) -> NDArray[np.float32]:
    """Of every row [R]: mean share of words that its item has in common with the last liked ones; 0 without history."""
    words = _words(ratings)
    row, i, j, length = _history_pairs(ratings, history_items)
    size = np.asarray(words.sum(axis=1)).reshape(-1)
    both = np.asarray(words[i].multiply(words[j]).sum(axis=1)).reshape(-1)
    share = both / np.maximum(size[i] + size[j] - both, 1)
    return (np.bincount(row, weights=share, minlength=len(ratings)) / np.maximum(length, 1)).astype(np.float32)


def _words(ratings: Ratings) -> sp.csr_matrix:
    """Which words each item's text has: [items, words], 1 or 0."""
    of_item = [set(text.split()) for text in ratings.item_text]
    vocabulary: dict[str, int] = {}
    for words in of_item:
        for word in words:
            vocabulary.setdefault(word, len(vocabulary))
    pairs = [(item, vocabulary[word]) for item, words in enumerate(of_item) for word in sorted(words)]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return sp.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(of_item), max(len(vocabulary), 1)))


def _history_pairs(ratings: Ratings, last: int) -> tuple[NDArray[np.int64], ...]:
    """Every (row, history item), flat: the row, its item i, the history item j; and each row's number of these [R]."""
    length = np.minimum(ratings.history_end - ratings.history_start, last)
    row = np.repeat(np.arange(len(ratings)), length)
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    j = ratings.liked[np.repeat(ratings.history_end - length, length) + place]
    return row, ratings.item[row], j, length


def random_parts(ratings: Ratings, folds: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The train rows, and the random part that each is in."""
    rows = ratings.rows("train")
    return rows, np.random.default_rng(seed).permutation(len(rows)) % folds


def _at(matrix: sp.csr_matrix, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(matrix[row, column]).reshape(-1)
