"""Laws of sampled negatives: what stands for a dislike where there is only implicit feedback."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recbole_cora
from recbole_cora.cli import main
from recbole_cora.data.prepared import sampled_negatives
from recbole_cora.errors import DataError
from recbole_cora.prepare.negatives import Negatives, draw
from tests.test_prepare import rows_of

USERS, ITEMS, PLAYS = 10, 60, 20


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Interactions without ratings, in plays.csv: popular items have low numbers, and some pairs come twice."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{int(ITEMS * random.random() ** 2)}", 1_600_000_000 + 1000 * place + user)
        for user in range(USERS)
        for place in range(PLAYS)
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    frame.to_csv("plays.csv", index=False)
    return frame


def prepare(*options: str) -> pd.DataFrame:
    assert main(["prepare", "csv", "--ratings=plays.csv", "--implicit", "--quiet", "--force", *options]) == 0
    rows = rows_of(Path("dataset/plays"), "plays").reset_index(drop=True)
    return rows.rename(columns=lambda name: name.split(":")[0])


def test_likes_are_the_interactions_and_have_their_negatives(plays: pd.DataFrame) -> None:
    """Each first interaction of a pair is a like. Four negatives follow it, with its user, time, split and history."""
    rows = prepare()
    likes = rows[rows["label"] == "1"]
    first = plays.drop_duplicates(["user", "item"])
    assert set(zip(likes["user_id"], likes["item_id"], likes["timestamp"].astype(int), strict=True)) == set(
        first.itertuples(index=False, name=None)
    )
    assert rows["label"].tolist() == ["1", "0", "0", "0", "0"] * len(likes)
    shared = ["user_id", "timestamp", "item_id_list", "split"]
    for place in range(1, 5):
        negatives = rows.iloc[place::5]
        assert negatives[shared].to_numpy().tolist() == likes[shared].to_numpy().tolist()
        assert set(negatives["rating"]) == {"0"}


def test_a_negative_is_no_item_of_the_user(plays: pd.DataFrame) -> None:
    """It is in no split an item of the user, in no history, and no pair is twice in the files."""
    rows = prepare("--negatives=2", "--negatives-by=popularity")
    own = plays.groupby("user")["item"].agg(set)
    negatives = rows[rows["label"] == "0"]
    assert not any(item in own[user] for user, item in zip(negatives["user_id"], negatives["item_id"], strict=True))
    assert not rows.duplicated(["user_id", "item_id"]).any()
    for user, history in zip(rows["user_id"], rows["item_id_list"], strict=True):
        assert set(history.split()) <= own[user]
    assert set(negatives["item_id"]) <= set(plays["item"])


def test_items_outside_the_split_are_no_negatives(plays: pd.DataFrame) -> None:
    """An item that the user touched before the first window is not drawn either."""
    windows = "--windows=2020-09-13,2020-09-14,2020-09-15,2020-09-16"
    frame = plays.assign(time=plays["time"] + 86_400 * (plays.index % 4) - 86_400)
    frame.to_csv("plays.csv", index=False)
    rows = prepare(windows, "--negatives=2")
    own = frame.groupby("user")["item"].agg(set)
    negatives = rows[rows["label"] == "0"]
    assert len(negatives) and len(rows) < len(frame) * 3
    assert not any(item in own[user] for user, item in zip(negatives["user_id"], negatives["item_id"], strict=True))


def test_the_seed_decides_and_nothing_else_does(plays: pd.DataFrame) -> None:
    assert prepare("--seed=5").equals(prepare("--seed=5"))
    assert not prepare("--seed=5").equals(prepare("--seed=6"))


def test_popular_items_are_drawn_more_often() -> None:
    """By popularity, an item's draws are in proportion to its rows; uniformly, they are not."""
    user = np.repeat(np.arange(2000), 1)
    item = np.where(np.arange(2000) % 10 == 0, 1, np.where(np.arange(2000) % 2 == 0, 2, 3))
    nothing = [np.array([], dtype=np.int64)] * 2000
    counts = {
        by: np.bincount(draw(user, item, nothing, Negatives(1, by)).ravel(), minlength=4)[1:] / 2000
        for by in ("uniform", "popularity")
    }
    assert counts["uniform"] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert counts["popularity"] == pytest.approx([0.1, 0.4, 0.5], abs=0.04)


def test_a_large_catalogue_is_drawn_from_in_proportion() -> None:
    """Drawing anew in place of weighing all items changes no shares: half of the rows are of item 0."""
    items = np.where(np.arange(4000) % 2 == 0, 0, np.arange(4000))
    user = np.arange(4000)
    nothing = [np.array([], dtype=np.int64)] * 4000
    drawn = draw(user, items, nothing, Negatives(1, "popularity"))
    assert (drawn == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (draw(user, items, nothing, Negatives(1, "uniform")) == 0).mean() < 0.01


def test_a_user_with_nearly_every_item_gets_what_is_left() -> None:
    """Two items left: each row gets both, none twice. None left: none."""
    user, item = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 4])
    drawn = draw(user, item, [np.array([0, 1, 2]), np.arange(5)], Negatives(3))
    assert [sorted(row) for row in drawn[:3].tolist()] == [[-1, 3, 4]] * 3
    assert (drawn[3:] == -1).all()


def test_they_are_named_in_every_report(plays: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    """In the JSON beside the data, in the log and the result of a run, and in the report of a comparison."""
    from recbole_cora.compare.pages import caption
    from recbole_cora.summary import summary

    prepare("--negatives=2", "--seed=7")
    text = "2 sampled negatives per like (uniform, seed 7)"
    content = json.loads(Path("dataset/plays/plays.prepared.json").read_text())
    assert content["negatives"]["about"] == text
    assert sum(content["negatives"]["rows"].values()) == 2 * len(plays.drop_duplicates(["user", "item"]))
    with caplog.at_level(logging.INFO):
        result = recbole_cora.run(model="Averages", dataset="plays", options={"show_progress": False})
    assert result["negatives"] == text and text in summary(result)
    assert main(["compare", "--models=Averages", "--dataset=plays", "--out=out", "--show_progress=False"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    note = f"Dislikes: {text}; AUC on them is another number than AUC on ratings"
    assert note in Path("out/report.md").read_text() and note in caption(report, [])


def test_ratings_have_no_such_note(plays: pd.DataFrame) -> None:
    """A dataset of ratings is described as before; a damaged description is an error, not silence."""
    plays.assign(rating=plays["item"].str[1:].astype(int) % 5 + 1).to_csv("plays.csv", index=False)
    assert main(["prepare", "csv", "--ratings=plays.csv", "--quiet"]) == 0
    path = Path("dataset/plays/plays.prepared.json")
    assert "negatives" not in path.read_text() and sampled_negatives(path.parent, "plays") == ""
    path.write_text("{")
    with pytest.raises(DataError, match="prepare the dataset again"):
        sampled_negatives(path.parent, "plays")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--negatives=2"], "which only --implicit does"),
        (["--implicit", "--like=4"], "--like is about ratings"),
        (["--implicit", "--negatives=0"], "whole number of at least 1"),
        (["--implicit", "--negatives_by=luck"], "neither 'uniform' nor 'popularity'"),
    ],
)
def test_a_contradiction_is_one_line(
    plays: pd.DataFrame, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    plays.assign(rating=plays["item"].str[1:].astype(int) % 5 + 1).to_csv("plays.csv", index=False)
    assert main(["prepare", "csv", "--ratings=plays.csv", "--quiet", *options]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1
