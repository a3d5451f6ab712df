"""Laws of rows: their order, labels, splits and histories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.errors import DataError
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
    """With the same user and time, the item that appears first in the whole file comes first."""
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    others = "".join(f"w\ti{n}\t{5 if n % 2 else 2}\t{n}\n" for n in range(20))
    ratings = _load(tmp_path, inter=head + "v\tb\t5\t9\n" + "u\ta\t5\t7\nu\tb\t2\t7\nu\tc\t5\t3\n" + others)
    rows_of_u = ratings.user == list(ratings.user_tokens).index("u")
    assert ratings.item_tokens[ratings.item[rows_of_u]].tolist() == ["c", "b", "a"]


def test_a_history_is_every_earlier_liked_row_of_the_user(tmp_path: Path) -> None:
    """It spans all splits, starts with the oldest, and never contains the row itself or a later one."""
    ratings = _load(tmp_path)
    for row in range(len(ratings)):
        before = [r for r in range(row) if ratings.user[r] == ratings.user[row] and ratings.label[r] == 1]
        assert ratings.history(row).tolist() == ratings.item[before].tolist()
        assert ratings.history(row, 3).tolist() == ratings.item[before][-3:].tolist()


def test_each_user_is_cut_in_time(tmp_path: Path) -> None:
    """Each user's rows are split 80/10/10, train first, with the row counts of RecBole's ratio rule."""
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
    """`<name>.{train,valid,test}.inter` keep their order and their item_id_list."""
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


HEAD = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n"


def _lines(rows: int, **cells: str) -> str:
    """Return a file of rows of two users; `cells` replaces whole lines, keyed by `r` and the row number."""
    lines = (f"u{n % 2}\ti{n // 2}\t{n // 2 % 2}\t{n}" for n in range(rows))
    return HEAD + "".join(cells.get(f"r{n}", line) + "\n" for n, line in enumerate(lines))


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n\r\n"])
def test_blank_lines_may_end_a_file(tmp_path: Path, end: str) -> None:
    """Blank lines at the end do not count as rows."""
    ratings = _load(tmp_path, inter=_lines(40).rstrip("\n") + end)
    assert len(ratings) == 40 and ratings.user_tokens.tolist() == ["u0", "u1"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"r3": ""}, r"toy\.inter line 5 is blank, expected 4 cells"),
        ({"r7": "u\ti\tgood\t1"}, r"toy\.inter line 9: 'label' is 'good'; expected a number"),
        ({"r7": "u\ti\t0.5\t1"}, r"toy\.inter line 9: 'label' is '0\.5'; expected 0 or 1"),
        ({"r7": "u\ti\0\t1\t1"}, r"toy\.inter line 9: 'item_id' is 'i\\x00', which holds a NUL character"),
        ({"r0": "\0u\ti\t1\t1"}, r"toy\.inter line 2: 'user_id' is '\\x00u', which holds a NUL character"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    """The error gives the line's number in the file, counted from 1."""
    with pytest.raises(DataError, match=message):
        _load(tmp_path, inter=_lines(40, **cells))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_line_of_a_prepared_dataset_is_named_with_its_own_file(tmp_path: Path, split: str) -> None:
    """The line number counts within the file of its split."""
    folder = write_toy(tmp_path)
    for each in ("train", "valid", "test"):
        text = _lines(6, **({"r4": "u\ti\tgood\t1"} if each == split else {}))
        (folder / f"toy.{each}.inter").write_text(text.replace("timestamp:float", "item_id_list:token_seq"))
    with pytest.raises(DataError, match=rf"^toy\.{split}\.inter line 6: 'label' is 'good'"):
        load_ratings(folder, "toy", SETTINGS)


@pytest.mark.parametrize("column", ["item_id", "label", "item_id_list"])
def test_a_column_that_one_file_of_a_prepared_dataset_lacks_is_named(tmp_path: Path, column: str) -> None:
    """The error names the file and the column."""
    folder = write_toy(tmp_path)
    for each in ("train", "valid", "test"):
        text = _lines(6).replace("timestamp:float", "item_id_list:token_seq")
        (folder / f"toy.{each}.inter").write_text(text.replace(f"{column}:", "other:") if each == "test" else text)
    with pytest.raises(DataError, match=rf"^toy\.test\.inter.* has no column '{column}'"):
        load_ratings(folder, "toy", SETTINGS)
