"""Laws of `prepare csv`: one's own ratings, the problems of their rows, and mistakes in the command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from recbole_cora.cli import main
from tests.test_prepare import prepare, read, rows_of, write_csv, write_ml_1m


def test_ones_own_ratings_are_prepared_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are recognised by their usual names, and a run can use the dataset like any other."""
    import recbole_cora

    monkeypatch.chdir(tmp_path)
    ratings, items = write_csv(tmp_path / "raw")
    prepare("csv", f"--ratings={ratings}", f"--items={items}", "--name=mine", "--out=dataset/mine")
    result = recbole_cora.run(model="Averages", dataset="mine", options={"show_progress": False})
    assert result["rows"] == {"train": 64, "valid": 8, "test": 8}
    assert result["test_warm"]["rows"] + result["test_cold"]["rows"] == 8
    assert read(Path("dataset/mine/mine.item"))["title:token_seq"][0] == 'Title, "0"'


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("u1,i1,4", "3 cells instead of 4"),
        ("u1,i1,good,1600000000", "rating is no number"),
        ("u1,i1,nan,1600000000", "rating is no number"),
        ("u1,i1,4,yesterday", "timestamp is no number and no date"),
        ("u1,i1,4,1600000000000", "timestamp out of range"),
        (",i1,4,1600000000", "no user or item"),
        ("u0,i0,1,1600000000", "same user, item and timestamp again"),
        ("u1,nowhere,4,1600000000", "item without a title"),
        ("u1,i 1,4,1600000000", "id with spaces"),
        ('u1,"i1,4,1600000000', "not readable as CSV"),
        ("u1,i1,4,20200101", "timestamp of eight digits"),
        ("u\0,i1,4,1600000000", "id that is no text"),
    ],
)
def test_a_bad_row_is_counted_and_strict_makes_it_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, kind: str
) -> None:
    """Bad rows are counted by kind, with the line of the first. All other rows are kept."""
    ratings, items = write_csv(tmp_path / "raw", rows=[row])
    arguments = ["csv", f"--ratings={ratings}", f"--items={items}", f"--out={tmp_path / 'out'}"]
    prepare(*arguments)
    problems = json.loads((tmp_path / "out/r.prepared.json").read_text())["problems"]["r.csv"]
    problem = next(problem for name, problem in problems.items() if name.startswith(kind))
    assert problem["first_line"] in (2, 3)
    assert len(rows_of(tmp_path / "out", "r")) == 80 + problem["kept"]
    assert main(["prepare", *arguments, "--quiet", "--strict", "--force"]) == 2
    assert "line" in capsys.readouterr().err.splitlines()[-1]


def test_bytes_and_titles_that_are_odd_are_counted(tmp_path: Path) -> None:
    """A row that is not UTF-8 is left out. Tabs and newlines in a title become spaces."""
    ratings, items = write_csv(tmp_path / "raw", items=['i1,"a\tb\nc",X', "i1,again,X"])
    ratings.write_bytes(ratings.read_bytes() + b"u\xff,i1,4,1600000000\n")
    out = prepare("csv", f"--ratings={ratings}", f"--items={items}", f"--out={tmp_path / 'out'}")
    problems = json.loads((out / "r.prepared.json").read_text())["problems"]
    assert problems["r.csv"]["id that is no text"]["first_line"] == 82
    assert problems["m.csv"]["title with tabs, newlines or bytes that are no text"]["count"] == 1
    assert read(out / "r.item").set_index("item_id:token").loc["i1", "title:token_seq"] == "a b c"


def test_dates_and_gzip_and_windows_are_taken(tmp_path: Path) -> None:
    rows = [f"u{u};b{n};{1 + n % 2};2020-0{1 + n % 9}-0{1 + u}T10:00:00" for u in range(3) for n in range(9)]
    with gzip.open(tmp_path / "loans.csv.gz", "wt") as file:
        file.write("user;book_id;stars;date\n" + "\n".join(rows) + "\n")
    windows = "--windows=2020-01-01,2020-04-01,2020-06-01,2020-09-01"
    out = prepare("csv", f"--ratings={tmp_path / 'loans.csv.gz'}", windows, "--like=2", f"--out={tmp_path / 'out'}")
    prepared = rows_of(out, "loans")
    assert prepared["split"].value_counts().to_dict() == {"train": 9, "valid": 6, "test": 9}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ml-1m", "--raw=nowhere"], "cannot read"),
        (["ml-1m", "--raw=raw"], "is it empty, or the wrong file?"),
        (["csv", "--ratings=empty.csv"], "is empty"),
        (["csv", "--ratings=r/r.csv", "--user-column=usrId"], "did you mean 'userId'"),
        (["csv", "--ratings=r/m.csv"], "try: recbole-cora prepare csv"),
        (["csv", "--ratings=r/r.csv", "--shares=1,2"], "three shares"),
        (["csv", "--ratings=r/r.csv", "--windows=2020-01-01,2019-01-01,2021-01-01,2022-01-01"], "four dates in order"),
        (["csv", "--ratings=r/r.csv", "--windows=2001-01-01,2001-02-01,2001-03-01,2001-04-01"], "would be empty"),
        (["csv", "--ratings=r"], "r is not a file"),
        (["csv"], "--ratings=FILE is missing"),
        (["csv", "--ratings=r/r.csv", "--more-than=-1"], "whole number of at least 0"),
        (["ml-1m", "--raw=raw", "--rav=x"], "unrecognized arguments: --rav=x"),
        (["nothing"], "invalid choice"),
        (["amazon-book", "--raw-reviews=r/m.csv", "--raw-metadata=r/m.csv"], "is it empty, or the wrong file?"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """The error is one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "r")
    write_ml_1m(tmp_path / "raw", ratings=["1,2,3,4"] * 5)
    Path("empty.csv").touch()
    assert main(["prepare", *arguments, "--quiet", "--out=out"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and says in errors[0]
    assert not Path("out").exists()


def test_all_mistakes_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names each mistake in the options, both files and the split once. Nothing is written."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "r")
    Path("odd.csv").write_text("who,movieId,score,at\nu1,i1,4,1600000000\n")

    def complaint(*arguments: str) -> str:
        assert main(["prepare", "csv", *arguments, "--quiet", "--out=out"]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and not Path("out").exists()
        return message

    columns = ["--ratings=odd.csv", "--items=nowhere.csv", "--rating-column=scor", "--title-column=x"]
    options = ["--like=x", "--more-than=2.5", "--shares=1,2", "--windows=a", "--split=both", "--name=a/b", "--qiet"]
    message = complaint(*columns, *options)
    for problem in (
        "--user-column=", "--time-column=", "did you mean 'score'", "nowhere.csv", "--like: 'x'", "--more-than: '2.5'",
        "three shares", "four dates", "--split: 'both'", "'a/b'", "unrecognized arguments: --qiet",
    ):  # fmt: skip
        assert message.count(problem) == 1, problem
    assert "--item-column=" not in message and message.count("'x'") == 1  # nowhere.csv has no columns to check
    message = complaint("--ratings=r/r.csv", "--separator=abc", "--shares=8,1,1", "--windows=2020-01-01,2020-01-02")
    assert message.count("the separator is 'abc'") == 1 and "four dates" in message
    message = complaint("--ratings=r/r.csv", "--like=9", "--windows=2001-01-01,2020-01-01,2021-01-01,2022-01-01")
    assert "the train and the test split of r would be empty" in message and "every valid row" in message
