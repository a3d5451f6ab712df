"""Laws of `prepare csv` for a new user: a file as people have it gives a result of a run, or one line to paste."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recbole_cora
from recbole_cora.cli import main
from recbole_cora.errors import DataError
from recbole_cora.prepare.encodings import find_encoding
from recbole_cora.prepare.times import TimeFormat, find_format
from tests.test_prepare import read, rows_of

START, DAY = 1_600_000_000, 86_400
Ratings = list[tuple[str, str, int, int]]


@pytest.fixture
def ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratings:
    """Users, items, one to five stars and Unix seconds, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    return [
        (f"u{user}", f"b{item}", int(random.integers(1, 6)), START + DAY * (20 * user + 30 * place))
        for user in range(8)
        for place, item in enumerate(random.permutation(25)[:20])
    ]


def write(
    name: str,
    header: str,
    rows: Ratings,
    cells: Callable[[str, str, int, int], tuple[object, ...]],
    separator: str = ",",
    encoding: str = "utf-8",
) -> Path:
    lines = [header, *(separator.join(map(str, cells(*row))) for row in rows)]
    Path(name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return Path(name)


def write_books(encoding: str = "utf-8") -> Path:
    lines = ["id;name;genre;price;year;cover_url"]
    lines += [f"b{n};Bücher, Band {n};Krimi;{n}.5;{1950 + n};http://x.org/{n}" for n in range(25)]
    Path("books.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return Path("books.csv")


def run(name: str, model: str = "Averages", **options: object) -> dict[str, object]:
    result = recbole_cora.run(model=model, dataset=name, options={"show_progress": False, **options})
    assert 0 <= result["test"]["auc"] <= 1
    return result


def day(seconds: int, pattern: str) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime(pattern)


#: A file by what is special about it: header, cells of a row, separator, encoding, options, and what is said.
FILES: dict[str, tuple[str, Callable[..., tuple[object, ...]], str, str, list[str], str]] = {
    "other names": ("reader,book,stars,when", lambda u, i, r, t: (u, i, r, t), ",", "utf-8", [], "user = reader"),
    "semicolons, German dates and numbers": (
        "Kunde;Artikel;Bewertung;Datum", lambda u, i, r, t: (u, i, f"{r},0", day(t, "%d.%m.%Y %H:%M")), ";", "utf-8",
        [], "(dates as %d.%m.%Y %H:%M, day first)",
    ),
    "American dates": (
        "user,item,rating,date", lambda u, i, r, t: (u, i, r, day(t, "%m/%d/%Y")), ",", "utf-8", [], "month first",
    ),
    "milliseconds": (
        "user_id,isbn,score,timestamp", lambda u, i, r, t: (u, i, r, 1000 * t + 7), ",", "utf-8", [],
        "(Unix milliseconds)",
    ),
    "implicit": (
        "customer_id,asin,time", lambda u, i, r, t: (u, i, t), ",", "utf-8", ["--implicit"], "each row is a like",
    ),
    "ten stars": (
        "user,item,rating,date", lambda u, i, r, t: (u, i, 2 * r, day(t, "%Y-%m-%d")), ",", "utf-8", [],
        "10-star ratings? try --like=8",
    ),
    "byte-order mark": ("user,item,rating,time", lambda u, i, r, t: (u, i, r, t), ",", "utf-8-sig", [], "user = user"),
    "latin-1": ("user,item,rating,time", lambda u, i, r, t: (f"é{u}", i, r, t), ",", "latin-1", [], "Windows-1252"),
    "no time": ("user,item,rating", lambda u, i, r, t: (u, i, r), ",", "utf-8", ["--no-time"], "the order of the rows"),
    "UTF-16 with tabs": (
        "user\titem\trating\ttime", lambda u, i, r, t: (f"é{u}", i, r, t), "\t", "utf-16", [], "(tabs, UTF-16)",
    ),
    "quotes and bars": (
        "'User-ID'|'ISBN'|'Book-Rating'|'time'", lambda u, i, r, t: (f"'{u}'", f"'{i}'", f"'{r}'", f"'{t}'"), "|",
        "utf-8", [], "(bars, single quotes, UTF-8)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_as_people_have_it_gives_a_result(ratings: Ratings, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Two commands: `prepare csv`, which says what it found, and `run`. The split and the order of time are right."""
    header, cells, separator, encoding, options, says = FILES[kind]
    file = write("mine.csv", header, ratings, cells, separator, encoding)
    with caplog.at_level(logging.INFO):
        assert main(["prepare", "csv", f"--ratings={file}", "--quiet", *options]) == 0
    assert says in caplog.text, caplog.text
    rows = rows_of(Path("dataset/mine"), "mine")
    likes = rows[rows["rating:float"] != "0"]
    assert len(likes) == len(ratings) and len(rows["user_id:token"].unique()) == 8
    if kind != "no time":
        expected = {(u.removeprefix("é"), i): t for u, i, _, t in ratings}
        times = zip(likes["user_id:token"], likes["item_id:token"], likes["timestamp:float"], strict=True)
        late = 0 if "dates" not in kind and kind != "ten stars" else DAY
        assert all(0 <= expected[u.removeprefix("é"), i] - int(float(t)) <= late for u, i, t in times)
    assert run("mine")["rows"] == {s: int((rows["split"] == s).sum()) for s in ("train", "valid", "test")}


def test_parquet_gives_the_bytes_of_csv(ratings: Ratings) -> None:
    """Times may be of Parquet's own type, and whole numbers stay whole."""
    frame = pd.DataFrame(ratings, columns=["user", "item", "rating", "time"])
    frame.to_csv("a.csv", index=False)
    frame.assign(time=pd.to_datetime(frame["time"], unit="s"), rating=frame["rating"].astype(float)).to_parquet("a.pq")
    for file, out in (("a.csv", "one"), ("a.pq", "two")):
        assert main(["prepare", "csv", f"--ratings={file}", "--name=a", f"--out=dataset/{out}", "--quiet"]) == 0
    assert [(Path("dataset/two") / f"a.{s}.inter").read_bytes() for s in ("train", "valid", "test")] == [
        (Path("dataset/one") / f"a.{s}.inter").read_bytes() for s in ("train", "valid", "test")
    ]


#: A file that needs a word more, and what the one line says; a command in it leads on.
UNCLEAR: dict[str, tuple[str, Callable[..., tuple[object, ...]], list[str], str]] = {
    "unusual names": (
        "who,what,how much,at", lambda u, i, r, t: (u, i, r, t), [],
        "none is named like the user, item, rating or time",
    ),
    "no rating": ("user,item,time", lambda u, i, r, t: (u, i, t), [], "if each row is a like: --implicit"),
    "no time": ("user,item,rating", lambda u, i, r, t: (u, i, r), [], "--no-time"),
    "ambiguous dates": (
        "user,item,rating,date", lambda u, i, r, t: (u, i, r, day(t, "%m/05/%Y")), [],
        "'--time-format=%d/%m/%Y' or '--time-format=%m/%d/%Y'",
    ),
    "no header": ("u0,7,2.5,1260759144", lambda u, i, r, t: (u, i, r, t), [], "above the data"),
    "no titles": ("user,item,rating,time", lambda u, i, r, t: (u, i, r, t), ["--items=no.csv"], "cannot read no.csv"),
    "other items": (
        "user,item,rating,time", lambda u, i, r, t: (u, f"x{i}", r, t), ["--items=books.csv"],
        "names none of the rated items",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLEAR)
def test_an_unclear_file_is_answered_by_one_line(
    ratings: Ratings, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The line says what to add; if it holds a command, that command prepares the file. Nothing is written before."""
    header, cells, options, says = UNCLEAR[kind]
    write_books()
    file = write("mine.csv", header, ratings, cells)
    assert main(["prepare", "csv", f"--ratings={file}", "--quiet", *options]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1 and not Path("dataset").exists()
    if command := re.search(r"try: recbole-cora (.*)", message):
        assert main(shlex.split(command[1])) == 0
        run("mine")
    else:
        assert kind in ("ambiguous dates", "no header", "no titles", "other items")


def test_one_line_completes_both_files(ratings: Ratings, capsys: pytest.CaptureFixture[str]) -> None:
    """The ids may have different names in the two files; one command line names all missing columns."""
    write("mine.csv", "user,thing,rating,time", ratings, lambda u, i, r, t: (u, i, r, t))
    Path("things.csv").write_text("number,label of it\n" + "".join(f"b{n},A thing {n}\n" for n in range(25)))
    assert main(["prepare", "csv", "--ratings=mine.csv", "--items=things.csv", "--quiet"]) == 2
    command = capsys.readouterr().err.split("try: recbole-cora ")[1]
    assert all(flag in command for flag in ("--item-column=thing", "--items-id-column=number", "--title-column="))
    assert main(shlex.split(command)) == 0
    assert read(Path("dataset/mine/mine.item"))["title:token_seq"][0].startswith("A thing")


def test_words_are_said_and_chosen(ratings: Ratings, caplog: pytest.LogCaptureFixture) -> None:
    """A price is a number, and a link is neither; no model reads them as words. `--item_words=` decides otherwise."""
    from recbole_cora.data.ratings import load_ratings
    from recbole_cora.settings.resolve import resolve

    write("mine.csv", "user,item,rating,time", ratings, lambda u, i, r, t: (u, i, r, t))
    write_books("latin-1")
    command = ["prepare", "csv", "--ratings=mine.csv", "--items=books.csv", "--quiet", "--force"]
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert "words: genre, year; numbers: price; left out: cover_url" in caplog.text
    settings = resolve("MF", "mine", {})
    loaded = load_ratings(Path("dataset/mine"), "mine", settings)
    assert loaded.titles is not None and loaded.titles[0].startswith("Bücher, Band ")
    assert re.fullmatch(r"Krimi 19\d\d", loaded.item_text[0])
    assert main([*command, "--item_words=price"]) == 0
    assert re.fullmatch(r"\d+\.5", load_ratings(Path("dataset/mine"), "mine", settings).item_text[0])
    assert main([*command, "--item-words=prize"]) == 2


def test_a_run_can_be_given_the_name(ratings: Ratings, caplog: pytest.LogCaptureFixture) -> None:
    """A file named by a number gives a name that `--dataset=` reads as text; the printed command runs."""
    write("2024.csv", "user,item,rating,time", ratings, lambda u, i, r, t: (u, i, r, t))
    with caplog.at_level(logging.INFO):
        assert main(["prepare", "csv", "--ratings=2024.csv", "--quiet"]) == 0
    command = caplog.messages[-1].removeprefix("next: recbole-cora ")
    assert command == "run --model=MF --dataset=data-2024"
    assert main([*shlex.split(command), "--max_steps=1", "--show_progress=False"]) == 0
    assert main(["prepare", "csv", "--ratings=2024.csv", "--name=2024", "--quiet"]) == 2


def test_a_dataset_is_replaced_only_by_force(ratings: Ratings, capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.csv", "user,item,rating,time", ratings, lambda u, i, r, t: (u, i, r, t))
    command = ["prepare", "csv", "--ratings=mine.csv", "--quiet"]
    assert main(command) == 0
    before = Path("dataset/mine/mine.train.inter").read_bytes()
    assert main([*command, "--shares=6,2,2"]) == 2 and "--force" in capsys.readouterr().err
    assert Path("dataset/mine/mine.train.inter").read_bytes() == before
    assert main([*command, "--shares=6,2,2", "--force"]) == 0
    assert Path("dataset/mine/mine.train.inter").read_bytes() != before


def test_a_split_that_comes_out_otherwise_is_explained(ratings: Ratings, caplog: pytest.LogCaptureFixture) -> None:
    """14 rows of a user are cut into 12, 1 and 1. `--split=global` cuts 80/10/10, and nothing is to be explained."""
    by_user = {user: [row for row in ratings if row[0] == user][:14] for user, *_ in ratings}
    rows = [row for some in by_user.values() for row in some]
    write("mine.csv", "user,item,rating,time", rows, lambda u, i, r, t: (u, i, r, t))
    command = ["prepare", "csv", "--ratings=mine.csv", "--quiet", "--force"]
    assert main(command) == 0
    assert "86/7/7 % instead of 80/10/10 %" in caplog.text
    caplog.clear()
    assert main([*command, "--split=global"]) == 0
    assert "instead of" not in caplog.text


def test_a_damaged_byte_makes_no_other_encoding(tmp_path: Path) -> None:
    """Text with letters of latin-1 is latin-1; one impossible byte among ASCII or UTF-8 is damage."""
    for text, encoding in ((b"caf\xe9\n", "cp1252"), (b"u\xff\n", "utf-8"), ("é\né\n".encode() + b"\xe9\n", "utf-8")):
        (tmp_path / "file").write_bytes(text)
        assert find_encoding(tmp_path / "file") == encoding


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1600000000", "1600000001"], TimeFormat("s")),
        (["1600000000123"], TimeFormat("ms")),
        (["1600000000123456"], TimeFormat("us")),
        (["1600000000123456789"], TimeFormat("ns")),
        (["2020-01-31", "2020-01-31T10:00:00Z"], TimeFormat()),
        (["01.02.2020"], TimeFormat(pattern="%d.%m.%Y")),
        (["01/02/2020 10:00", "31/02/2020 10:00", "31/01/2020 09:00"], TimeFormat(pattern="%d/%m/%Y %H:%M")),
        (["1/31/2020"], TimeFormat(pattern="%m/%d/%Y")),
        (["20200131235959"], TimeFormat(pattern="%Y%m%d%H%M%S")),
        (["Fri Apr 19 08:15:15 -0700 2013"], TimeFormat(pattern="%a %b %d %H:%M:%S %z %Y")),
    ],
)
def test_a_time_is_recognised(cells: list[str], expected: TimeFormat) -> None:
    assert find_format(cells, "time") == expected


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(DataError, match="is no time that is recognised"):
        find_format(["soon", "later"], "the column 'when'")


@pytest.mark.slow
def test_cora_reads_the_titles_of_a_csv(ratings: Ratings) -> None:
    """An implicit file with titles in latin-1 gives a result of CoRA."""
    write("mine.csv", "user,item,time", ratings, lambda u, i, r, t: (u, i, t))
    write_books("latin-1")
    assert main(["prepare", "csv", "--ratings=mine.csv", "--items=books.csv", "--implicit", "--quiet"]) == 0
    tiny = {"llm": "tiny", "tiny_steps": 2, "tiny_hidden": 32, "max_steps": 2, "cf_config": {"epochs": 1}}
    result = run("mine", "CoRA", **tiny)
    assert result["negatives"] == "4 sampled negatives per like (uniform, seed 1)"
