"""Laws of rows: order, labels, splits and histories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_cora.ratings import Ratings, load_ratings
from tests.conftest import write_toy

SETTINGS: dict[str, Any] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "RATING_FIELD": "rating",
    "TIME_FIELD": "timestamp",
    "LABEL_FIELD": "label",
    "LIST_SUFFIX": "_list",
    "threshold": {"rating": 4},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"},
}


def _load(tmp_path: Path, **changes: str | None) -> Ratings:
    return load_ratings(write_toy(tmp_path, **changes), "toy", SETTINGS)


def test_rows_are_ordered_by_user_time_and_first_appearance(tmp_path: Path) -> None:
    """A tie in user and time goes to the item that appears first in the whole file."""
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    others = "".join(f"w\ti{n}\t{5 if n % 2 else 2}\t{n}\n" for n in range(20))
    ratings = _load(tmp_path, inter=head + "v\tb\t5\t9\n" + "u\ta\t5\t7\nu\tb\t2\t7\nu\tc\t5\t3\n" + others)
    own = ratings.user == list(ratings.user_tokens).index("u")
    assert ratings.item_tokens[ratings.item[own]].tolist() == ["c", "b", "a"]


def test_a_history_is_every_earlier_liked_row_of_the_user(tmp_path: Path) -> None:
    """Across splits, oldest first, and never the row itself or a later one."""
    ratings = _load(tmp_path)
    for row in range(len(ratings)):
        before = [r for r in range(row) if ratings.user[r] == ratings.user[row] and ratings.label[r] == 1]
        assert ratings.history(row).tolist() == ratings.item[before].tolist()
        assert ratings.history(row, 3).tolist() == ratings.item[before][-3:].tolist()


def test_each_user_is_cut_in_time(tmp_path: Path) -> None:
    """80/10/10 of each user's rows, train first, as many rows as RecBole's own ratio rule gives."""
    ratings = _load(tmp_path)
    for user in range(12):
        assert ratings.split[ratings.user == user].tolist() == [0] * 16 + [1] * 2 + [2] * 2


def test_titles_are_read_as_they_stand(tmp_path: Path) -> None:
    """Quotes, braces and NA are ordinary text; an item without a title gets a named placeholder and is counted."""
    ratings = _load(tmp_path)
    assert ratings.titles is not None
    title = dict(zip(ratings.item_tokens, ratings.titles, strict=True))
    assert [title["i0"], title["i1"], title["i2"]] == ["{history} {title}", '"Quoted', "NA"]
    bare = load_ratings(write_toy(tmp_path / "b", item="item_id:token\ttitle:token_seq\ni0\tX\n"), "toy", SETTINGS)
    assert bare.untitled == 29 and bare.titles is not None and "untitled item i7" in bare.titles


def test_rows_already_split_keep_their_histories(tmp_path: Path) -> None:
    """`<name>.{train,valid,test}.inter` are taken in their order, with their item_id_list."""
    folder = write_toy(tmp_path)
    head = "user_id:token\titem_id:token\tlabel:float\titem_id_list:token_seq\n"
    for split, rows in {
        "train": "u\ta\t1\t\nu\tb\t0\ta\n",
        "valid": "u\tc\t1\ta\nu\td\t0\ta c\n",
        "test": "u\tb\t1\ta c\n",
    }.items():
        (folder / f"toy.{split}.inter").write_text(head + rows)
    ratings = load_ratings(folder, "toy", SETTINGS)
    assert [ratings.item_tokens[ratings.history(row)].tolist() for row in range(5)] == [
        [],
        ["a"],
        ["a"],
        ["a", "c"],
        ["a", "c"],
    ]
    assert ratings.users_with_both_classes("valid") == 1
