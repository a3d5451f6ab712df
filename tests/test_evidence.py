"""Laws of evidence: it holds what CF knows about a pair, and never depends on the row's own label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_cora import metrics, repairs
from recbole_cora.cf.evidence import leave_out, out_of_fold_scores
from recbole_cora.cf.pair_features import (
    CoLikes,
    MeanLabels,
    Pairs,
    Taste,
    _words,
    averages,
    colikes,
    random_folds,
    taste,
)
from recbole_cora.data.protocol import histories
from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import Stage

repairs.apply_all()
metrics.register()


@pytest.fixture
def config(toy: Path) -> CoraConfig:
    """Settings of a small MF on the toy dataset."""
    return CoraConfig(model_class("MF"), "toy", {"embedding_size": 8, "epochs": 3, "show_progress": False, "seed": 1})


@pytest.fixture
def ratings(toy: Path, config: CoraConfig) -> Ratings:
    return load_ratings(toy, "toy", config.final_config_dict)


def test_co_liking_is_the_mean_cosine_without_the_rows_own_user(ratings: Ratings) -> None:
    """The values equal a count by hand over sets of users."""
    rows = ratings.rows("train")
    liked = {(ratings.user[r], ratings.item[r]) for r in rows if ratings.label[r] == 1}
    users = range(len(ratings.user_tokens))
    values = colikes(ratings, 3)
    for row in range(len(ratings)):
        u, i = ratings.user[row], ratings.item[row]
        cosines = []
        for j in ratings.history(row, 3):
            of_i, of_j = ({v for v in users if v != u and (v, item) in liked} for item in (i, j))
            cosines.append(len(of_i & of_j) / ((len(of_i) + 5) * (len(of_j) + 5)) ** 0.5)
        assert values[row] == pytest.approx(np.mean(cosines) if cosines else 0.0, abs=1e-6)


def test_co_liking_does_not_see_the_rows_own_label(ratings: Ratings) -> None:
    """Flipping the label of a user's last train row changes no value of that user."""
    row = [r for r in ratings.rows("train") if ratings.user[r] == 0][-1]
    label = ratings.label.copy()
    label[row] = 1 - label[row]
    users_rows = ratings.user == 0
    flipped = replace(ratings, label=label)
    assert np.array_equal(colikes(ratings, 10)[users_rows], colikes(flipped, 10)[users_rows])


def test_averages_are_smoothed_means_of_the_other_parts(ratings: Ratings) -> None:
    """A test row gets the means of all train rows; those of a train row do not depend on its own label."""
    rows, label = ratings.rows("train"), ratings.label
    means, global_mean = averages(ratings, 4, seed=1), label[ratings.rows("train")].mean()
    for row in ratings.rows("test"):
        for column, ids in enumerate((ratings.user, ratings.item)):
            labels = label[rows[ids[rows] == ids[row]]]
            mean = (labels.sum() + 5 * global_mean) / (len(labels) + 5)
            assert means[row, column] == pytest.approx(mean, abs=1e-6)
    one = rows[7]
    others = rows[(label[rows] != label[one]) & (ratings.user[rows] != ratings.user[one])]
    other = next(r for r in others if ratings.item[r] != ratings.item[one])
    swapped = label.copy()
    swapped[[one, other]] = label[[other, one]]  # keeps the global mean
    after = averages(replace(ratings, label=swapped), len(rows), seed=1)
    assert np.array_equal(averages(ratings, len(rows), seed=1)[one], after[one])


def test_any_pair_can_be_asked_about(ratings: Ratings) -> None:
    """Fitted on the train rows, each feature answers about pairs without a row, as it does about test rows."""
    train_rows, test_rows = ratings.rows("train"), ratings.rows("test")
    means, likes, tastes = MeanLabels.fit(ratings, train_rows), CoLikes.fit(ratings), Taste.fit(ratings, train_rows)
    pairs = Pairs.of(ratings, test_rows)
    assert np.array_equal(means.of(pairs), averages(ratings, 4, seed=1)[test_rows])
    assert np.array_equal(likes.of(pairs, 3), colikes(ratings, 3)[test_rows])
    assert np.array_equal(tastes.of(pairs), taste(ratings, 4, seed=1)[test_rows])
    rated = set(zip(ratings.user.tolist(), ratings.item.tolist(), strict=True))
    items = range(len(ratings.item_tokens))
    user, item = next((u, i) for u in range(5) for i in items if (u, i) not in rated)
    liked = np.array([j for j in items if j != item and not likes.likes[user, j]][:3])
    new = Pairs(np.array([user]), np.array([item]), liked, np.array([0]), np.array([3]))
    n = likes.common_likers.toarray()
    cosines = [n[item, j] / np.sqrt((n[item, item] + 5) * (n[j, j] + 5)) for j in liked]
    assert likes.of(new, 3)[0] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert means.of(new)[0].tolist() == pytest.approx([means.by_user[user], means.by_item[item]])


def test_taste_is_the_smoothed_mean_excess_over_the_items_words(ratings: Ratings) -> None:
    """The values equal sums by hand over each user's train rows; an item without words gets 0."""
    rows = ratings.rows("train")
    by_item = MeanLabels.fit(ratings, rows).by_item
    words = [set(text.split()) for text in ratings.item_text]
    values = Taste.fit(ratings, rows).of(Pairs.of(ratings, ratings.rows("test")))
    for value, row in zip(values, ratings.rows("test"), strict=True):
        likings = []
        for word in words[ratings.item[row]]:
            of_user = [r for r in rows if ratings.user[r] == ratings.user[row] and word in words[ratings.item[r]]]
            excess = [ratings.label[r] - by_item[ratings.item[r]] for r in of_user]
            likings.append(sum(excess) / (len(excess) + 5))
        assert value == pytest.approx(np.mean(likings) if likings else 0.0, abs=1e-6)


def test_an_out_of_fold_score_does_not_see_the_rows_own_label(config: CoraConfig, ratings: Ratings) -> None:
    """With one fold per train row: flipping a row's label keeps its own score and changes others."""
    few = ratings.rows("train")[::32]
    split = ratings.split.copy()
    split[np.setdiff1d(ratings.rows("train"), few)] = 3
    small = replace(ratings, split=split)
    before = out_of_fold_scores(config, small, len(few))
    label = ratings.label.copy()
    label[few[2]] = 1 - label[few[2]]
    after = out_of_fold_scores(config, replace(small, label=label), len(few))
    assert before[2] == after[2] and not np.array_equal(before, after)


def _with_label(ratings: Ratings, row: int, label: float) -> Ratings:
    """Return the ratings with another label of one row, and with the histories that follow from it."""
    labels = ratings.label.copy()
    labels[row] = label
    liked, start, end = histories(ratings.user, ratings.item, labels)
    return replace(ratings, label=labels, liked=liked, history_start=start, history_end=end)


def test_a_sequential_encoders_out_of_fold_score_does_not_see_the_rows_own_label(toy: Path, ratings: Ratings) -> None:
    """Flipping the label of an early row, which is in many histories, keeps its own score and changes other scores."""
    options = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "epochs": 3, "learning_rate": 0.05}
    config = CoraConfig(model_class("SAS"), "toy", {**options, "show_progress": False, "seed": 1})
    rows, _ = random_folds(ratings, 2, 1)
    place = int(np.flatnonzero(ratings.user[rows] == 3)[2])
    disliked, liked = (_with_label(ratings, rows[place], label) for label in (0, 1))
    assert not np.array_equal(disliked.history(rows[place + 5]), liked.history(rows[place + 5]))
    one, other = (out_of_fold_scores(config, each, 2) for each in (disliked, liked))
    assert one[place] == other[place]
    assert (one != other).any()


@pytest.mark.parametrize("shared", [True, False], ids=["histories share entries", "histories as files give them"])
def test_what_is_left_out_is_in_no_history_that_is_learned_from(ratings: Ratings, shared: bool) -> None:
    """Every other row loses exactly the left-out items of its user, even a row of no split. Left-out rows lose none."""
    item, split = ratings.item.copy(), ratings.split.copy()
    item[3], item[25] = item[1], item[21]  # rated twice
    split[::7] = 3
    liked, start, end = histories(ratings.user, item, ratings.label)
    if not shared:
        length = end - start
        liked = np.concatenate([liked[a:b] for a, b in zip(start, end, strict=True)])
        end = np.cumsum(length)
        start = end - length
    whole = replace(ratings, item=item, split=split, liked=liked, history_start=start, history_end=end)
    rows, fold = random_folds(whole, 3, 1)
    left_out = rows[fold == 0]
    remaining = leave_out(whole, left_out)
    left_out_pairs = {(whole.user[row], whole.item[row]) for row in left_out}
    shorter = 0
    for row in range(len(whole)):
        history = whole.history(row).tolist()
        if row not in left_out:
            history = [i for i in history if (whole.user[row], i) not in left_out_pairs]
        assert remaining.history(row).tolist() == history
        shorter += len(history) < len(whole.history(row))
    assert shorter > 50
    assert np.array_equal(remaining.rows("test"), left_out)
    assert np.array_equal(remaining.rows("valid"), whole.rows("valid"))
    assert np.array_equal(remaining.rows("train"), rows[fold != 0])


@pytest.mark.parametrize("model", ["MF", "LGCN"])
def test_encoders_without_histories_score_as_if_nothing_were_taken_out(
    toy: Path, ratings: Ratings, tmp_path: Path, model: str
) -> None:
    """They read no histories, so the scores of a fold are those of a changed split alone."""
    options = {"embedding_size": 8, "epochs": 2, "show_progress": False, "seed": 1}
    config = CoraConfig(model_class(model), "toy", options)
    rows, fold = random_folds(ratings, 2, 1)
    scores = out_of_fold_scores(config, ratings, 2)
    split = np.where(ratings.split == 2, 3, ratings.split)
    split[rows[fold == 1]] = 2
    stage = Stage(config, replace(ratings, split=split))
    stage.fit(tmp_path / "fold", title="")
    stage.load(tmp_path / "fold")
    assert np.array_equal(scores[fold == 1], stage.score("test"))


def test_lgcn_forgets_what_it_propagated_when_other_weights_are_loaded(config: CoraConfig, ratings: Ratings) -> None:
    """A model that has been scored, and then loads other weights, gives the scores of those weights."""
    options = {"embedding_size": 8, "show_progress": False}
    one, two = (Stage(CoraConfig(model_class("LGCN"), "toy", {**options, "seed": seed}), ratings) for seed in (1, 2))
    first, second = one.score("test"), two.score("test")
    one.model.load_state_dict(two.model.state_dict())
    assert not np.array_equal(first, second) and np.array_equal(one.score("test"), second)


def test_words_are_numbered_in_order_of_appearance() -> None:
    """In a set their order would depend on Python's hash seed, and so would the last bits of sums."""
    texts = [" ".join(f"w{n}" for n in range(40)), "w39 new w0 w0"]
    words = _words(SimpleNamespace(item_text=texts)).toarray()  # type: ignore[arg-type]
    assert words.shape == (2, 41) and words[0, :40].all() and not words[0, 40]
    assert words[1].nonzero()[0].tolist() == [0, 39, 40]
