"""Laws of the readers of public datasets, on small files of the published form, and of `prepare --list`."""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

import recbole_cora
from recbole_cora.cli import main
from recbole_cora.prepare import catalogue
from recbole_cora.prepare.catalogue import SOURCES, listing
from tests.test_prepare import read, rows_of

START, DAY = 1_600_000_000, 86_400


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; nothing can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "_GROUPLENS", "http://127.0.0.1:9")
    monkeypatch.setattr(catalogue, "_UCSD", "http://127.0.0.1:9")


def numbers() -> list[tuple[int, int, int, int]]:
    """Return users, items, one to five stars and Unix seconds."""
    return [(u, n, 1 + (u + n) % 5, START + DAY * n + u) for u in range(6) for n in range(20)]


def run(name: str) -> None:
    result = recbole_cora.run(model="Averages", dataset=name, options={"show_progress": False})
    assert 0 <= result["test"]["auc"] <= 1


def write_movielens(archive: Path, folder: str) -> None:
    ratings = ["userId,movieId,rating,timestamp", *(f"{u},{n},{s - 0.5},{t}" for u, n, s, t in numbers())]
    movies = ["movieId,title,genres", *(f'{n},"Séance {n}, The (19{70 + n})",Drama|Crime' for n in range(19))]
    movies.append('19,"With ""quotes""",(no genres listed)')
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{folder}/ratings.csv", "\n".join(ratings) + "\n")
        file.writestr(f"{folder}/movies.csv", "\n".join(movies) + "\n")


@pytest.mark.parametrize("name", ["ml-20m", "ml-32m"])
def test_later_movielens_are_read_from_the_archive_or_a_folder(name: str) -> None:
    """Half stars, titles with commas and quotes, genres as words; an archive in the dataset's folder is found."""
    archive = Path(f"dataset/{name}/{name}.zip")
    write_movielens(archive, name)
    assert main(["prepare", name, "--quiet"]) == 0
    items = read(archive.parent / f"{name}.item").set_index("item_id:token")
    assert items.loc["3"].tolist() == ["Séance 3, The (1973)", "1973", "Drama Crime"]
    assert items.loc["19"].tolist() == ['With "quotes"', "", ""]
    assert sorted(rows_of(archive.parent, name)["rating:float"].unique()) == ["0.5", "1.5", "2.5", "3.5", "4.5"]
    with zipfile.ZipFile(archive) as file:
        file.extractall("raw")
    assert main(["prepare", name, f"--raw=raw/{name}", "--out=other", "--quiet"]) == 0
    assert rows_of(Path("other"), name).equals(rows_of(archive.parent, name))
    run(name)


def write_amazon_2023(folder: Path) -> None:
    reviews = [
        {
            "rating": float(s), "title": "Fine", "text": "x", "images": [], "asin": f"V{n}", "parent_asin": f"P{n}",
            "user_id": f"A{u}", "timestamp": 1000 * t + 5, "helpful_vote": 0, "verified_purchase": True,
        }
        for u, n, s, t in numbers()
    ]  # fmt: skip
    metadata = [
        {
            "main_category": "All Beauty", "title": f"Soap &amp; {n}", "average_rating": 4.1, "features": [],
            "price": 9.99 if n % 2 else None, "store": "Shop", "categories": ["Beauty", "Soap"], "parent_asin": f"P{n}",
        }
        for n in range(25)
    ]  # fmt: skip
    folder.mkdir(parents=True)
    with gzip.open(folder / "All_Beauty.jsonl.gz", "wt") as file:
        file.write("\n".join([*map(json.dumps, reviews), '{"rating": 5}', "no json"]) + "\n")
    (folder / "meta_All_Beauty.jsonl").write_text("\n".join(map(json.dumps, metadata)) + "\n")


def test_amazon_2023_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """Versions of a product are one item; times are milliseconds; a price is a number. Damaged lines are counted."""
    out, name = Path("dataset/amazon-2023-All_Beauty"), "amazon-2023-All_Beauty"
    write_amazon_2023(out)
    assert main(["prepare", "amazon-2023", "--category=All_Beauty", "--quiet"]) == 0
    assert "line that is no JSON object" in caplog.text and "review without a usable user_id" in caplog.text
    rows, items = rows_of(out, name), read(out / f"{name}.item").set_index("item_id:token")
    assert len(rows) == 120 and set(rows["item_id:token"]) == {f"P{n}" for n in range(20)}
    assert float(rows["timestamp:float"].min()) == pytest.approx(START, abs=1)
    assert items.loc["P1"].tolist() == ["Soap & 1", "Shop", "Beauty Soap", "9.99"]
    assert items.loc["P2", "price:float"] == ""
    run(name)


def write_goodreads(folder: Path) -> tuple[Path, Path]:
    def added(seconds: int) -> str:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%a %b %d %H:%M:%S -0700 %Y")

    interactions = [
        {
            "user_id": f"user{u}", "book_id": str(n), "review_id": "r", "is_read": n % 4 > 0,
            "rating": s if n % 4 > 1 else 0, "date_added": added(t), "date_updated": added(t), "read_at": "",
        }
        for u, n, s, t in numbers()
        if n % 6 != u
    ]  # fmt: skip
    books = [
        {"book_id": str(n), "title": f"Poems {n}", "publisher": "Faber", "publication_year": "1999", "isbn": ""}
        for n in range(20)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "goodreads_interactions_poetry.json.gz", folder / "goodreads_books_poetry.json.gz"
    for path, content in zip(paths, (interactions, books), strict=True):
        with gzip.open(path, "wt") as file:
            file.write("\n".join(map(json.dumps, content)) + "\n")
    return paths


def test_goodreads_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """Zero stars are no rating; the time zone counts. With `--implicit`, every book that was read is a like."""
    interactions, books = write_goodreads(Path("raw"))
    files = [f"--raw-interactions={interactions}", f"--raw-books={books}", "--quiet"]
    caplog.set_level("INFO")
    assert main(["prepare", "goodreads", *files]) == 0
    rows = rows_of(Path("dataset/goodreads-poetry"), "goodreads-poetry")
    unread, unrated = (sum(n % 6 != u and n % 4 <= least for u, n, _, _ in numbers()) for least in (0, 1))
    assert len(rows) == 100 - unrated and f"{unrated} rows of books without stars are not used" in caplog.text
    first = rows[(rows["user_id:token"] == "user0") & (rows["item_id:token"] == "2")]
    assert first["timestamp:float"].tolist() == [str(START + 2 * DAY + 7 * 3600)]
    assert main(["prepare", "goodreads", *files, "--implicit", "--negatives=1", "--name=read"]) == 0
    likes = rows_of(Path("dataset/read"), "read").query("`label:float` == '1'")
    assert len(likes) == 100 - unread
    items = read(Path("dataset/read/read.item")).set_index("item_id:token")
    assert items.loc["3"].tolist() == ["Poems 3", "Faber", "1999"]
    run("goodreads-poetry")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ml-20m"], "or give --raw=DIR_OR_ZIP"),
        (["ml-32m"], "download it yourself into dataset/ml-32m"),
        (["amazon-2023", "--category=Books"], "meta_Books.jsonl.gz yourself into dataset/amazon-2023-Books"),
        (["goodreads", "--genre=children"], "--raw-interactions=FILE and --raw-books=FILE"),
        (["goodreads", "--raw-books=x"], "--raw-interactions=FILE is missing"),
        (["ml-20m", "--raw=wrong.zip"], "holds no ratings.csv"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """The line says what to fetch and where to put it."""
    with zipfile.ZipFile("wrong.zip", "w") as file:
        file.writestr("x", "y")
    assert main(["prepare", *arguments, "--quiet"]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


def test_the_list_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    """Each dataset has a line with size and origin; what is prepared or has its raw files here is marked."""
    write_movielens(Path("dataset/ml-20m/ml-20m.zip"), "ml-20m")
    write_movielens(Path("dataset/ml-32m/ml-32m.zip"), "ml-32m")
    assert main(["prepare", "ml-32m", "--name=x", "--quiet"]) == 2  # has no option of this name
    assert main(["prepare", "ml-32m", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["prepare", "--list"]) == 0
    shown = capsys.readouterr().out
    assert shown == listing(Path("dataset"))
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert all(source.size in lines[source.name] and source.origin in lines[source.name] for source in SOURCES)
    assert lines["ml-20m"].endswith("raw files in dataset/ml-20m")
    assert lines["ml-32m"].endswith("prepared in dataset/ml-32m") and lines["ml-1m"].endswith("no")
