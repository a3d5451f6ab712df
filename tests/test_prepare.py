"""Laws of prepared datasets: the paper's recipe on small raw files, and the problems of bad raw rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_cora import repairs
from recbole_cora.cli import main
from recbole_cora.data.protocol import NO_SPLIT, split_all_in_time, split_in_windows, warm_rows
from recbole_cora.errors import DataError
from recbole_cora.files import finish_replacing, replace_files
from recbole_cora.prepare.problems import FileProblems
from recbole_cora.prepare.raw import ItemTable
from recbole_cora.prepare.write import NO_HISTORY

DAY = 86_400
JUNE_2001 = 991_353_600  # 2001-06-01T00:00:00Z
APRIL_2002 = 1_017_619_200
SEPTEMBER_2002 = 1_030_838_400
FEBRUARY_2003 = 1_044_057_600


def write_ml_1m(folder: Path, ratings: list[str] | None = None, movies: list[str] | None = None) -> Path:
    """Write raw files in MovieLens-1M's format, with a few rows in each window."""
    folder.mkdir(parents=True, exist_ok=True)
    if ratings is None:
        starts = (JUNE_2001 - 2 * DAY, JUNE_2001, APRIL_2002, SEPTEMBER_2002, FEBRUARY_2003)
        ratings = [
            f"{user}::{(user * 3 + place * 5 + n) % 9 + 1}::{5 - (user + place + n) % 3}::{start + n // 2}"
            for user in range(1, 6)
            for place, start in enumerate(starts)
            for n in range(6)
        ]
    movies = movies or [f"{n}::Séance {n}: A :: B (19{90 + n})::Drama|Children's" for n in range(1, 10)]
    (folder / "ratings.dat").write_bytes("\n".join(ratings).encode("latin-1") + b"\n")
    (folder / "movies.dat").write_bytes("\n".join(movies).encode("latin-1") + b"\n")
    return folder


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)


def rows_of(folder: Path, name: str = "ml-1m") -> pd.DataFrame:
    return pd.concat([read(folder / f"{name}.{s}.inter").assign(split=s) for s in ("train", "valid", "test")])


def prepare(*arguments: str) -> Path:
    assert main(["prepare", *arguments, "--quiet"]) == 0
    return Path(next(a.split("=")[1] for a in arguments if a.startswith("--out=")))


# -- the recipe ---------------------------------------------------------------------------------------------------


def test_windows_are_half_open_in_utc() -> None:
    """The first second of a window belongs to it, the first second after it does not."""
    bounds = ("2001-06-01", "2002-04-01", "2002-09-01", "2003-02-01")
    times = np.array([JUNE_2001 - 1, JUNE_2001, APRIL_2002 - 1, APRIL_2002, SEPTEMBER_2002, FEBRUARY_2003 - 1])
    assert split_in_windows(times, bounds).tolist() == [NO_SPLIT, 0, 0, 1, 2, 2]
    assert split_in_windows(np.array([FEBRUARY_2003]), bounds).tolist() == [NO_SPLIT]


def test_a_global_split_cuts_all_rows_at_two_moments() -> None:
    time = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 0])
    split = split_all_in_time(time, (0.6, 0.2, 0.2))
    assert [sorted(time[split == s].tolist()) for s in range(3)] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]


def test_warm_rows_have_a_known_user_and_a_known_item() -> None:
    user, item = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 0, 0, 1, 0])
    train = np.array([True, True, True, False, False, False])
    assert warm_rows(user, item, train, 1)[3:].tolist() == [True, True, False]
    assert warm_rows(user, item, train, 2)[3:].tolist() == [True, False, False]


def test_ml_1m_is_the_recipe_row_for_row(tmp_path: Path) -> None:
    """The files match a plain reimplementation: label, windows, the three-key order, all earlier liked items."""
    raw = write_ml_1m(tmp_path / "raw")
    out = prepare("ml-1m", f"--raw={raw}", f"--out={tmp_path / 'out'}")
    first: dict[str, int] = {}
    rows = []
    for line in (raw / "ratings.dat").read_text("latin-1").splitlines():
        user, item, rating, time = line.split("::")
        place = first.setdefault(item, len(first))
        if JUNE_2001 <= int(time) < FEBRUARY_2003:
            split = "train" if int(time) < APRIL_2002 else "valid" if int(time) < SEPTEMBER_2002 else "test"
            rows.append((int(user), int(time), place, item, rating, split))
    rows.sort(key=lambda row: row[:3])
    expected, liked = [], {}
    for user, time, _, item, rating, split in rows:
        history = liked.setdefault(user, [])
        label = int(rating) >= 4
        expected.append((split, str(user), item, rating, str(time), str(int(label)), list(history)))
        if label:
            history.append(item)
    prepared = rows_of(out)
    columns = ("split", "user_id:token", "item_id:token", "rating:float", "timestamp:float", "label:float")
    lists = prepared["item_id_list:token_seq"].str.split()
    assert sorted(expected, key=lambda row: ("train", "valid", "test").index(row[0])) == [
        (*row, history)
        for row, history in zip(prepared[list(columns)].itertuples(index=False, name=None), lists, strict=True)
    ]


#: Of the files that this release's first version made from `write_ml_1m`, `write_amazon` and `write_csv`.
SHA256 = {
    "ml-1m.item": "153eedff3689265b47b080511fc5afaffa50f113536b5dd3479ad119e0005cf3",
    "ml-1m.prepared.json": "72eea27858eb90d8baeb360cda36b7233485f36ab1b29b84ad5a1faee7b57881",
    "ml-1m.test.inter": "60ec5a45f22c18203a7f33a5f24ac9c71c1524f3af8c1d03af987e0049d8bfc7",
    "ml-1m.train.inter": "8b11139b4bbbb8426a41577a95384208aa4ff0016a0e83de3b4c4db70e4ec3af",
    "ml-1m.valid.inter": "5e60d20feceea542b763bfb4722dfe6a909c30beb65636fc2e5916bf05091eb2",
    "amazon-book.item": "a81dea38614482f048e17808bf246087c055c2e934c918483b5ab896c02cba8a",
    "amazon-book.test.inter": "a1a1ab3b7766543c80fb8daf54b5915954b6a47931d63662c53a45010162c9d4",
    "amazon-book.train.inter": "5e7a705d1c7f4f779e3a9171bcea4f92dd3257399ea86a64be299e92787e9926",
    "amazon-book.valid.inter": "46cb6737a24c5ea4cca2911a51ae55e76187a66e4ee8b25664e83258b3463297",
    "mine.item": "715cc4ffde450a8e56f5c474adc06c2e35e4a964abcd9c8d4e8d71aeb9fe6d40",
    "mine.prepared.json": "34dc03ab2d1586abc287f496f79eaee17195dcddcba40535224c022d828d9827",
    "mine.test.inter": "a35aa3611c5e669f51bb7c4e630c897d3b6a7a56335037bf55ddcbf9e960953f",
    "mine.train.inter": "bed97be631dbfdc01151b5655f69501844ee24bbeb1dc319688ea6bce22b8a7b",
    "mine.valid.inter": "b3fe91274e2b7e3fc715e4bbb14da275905371140c4da3a247e796dda5229d62",
}


def test_prepared_files_never_change(tmp_path: Path) -> None:
    """The same raw files give the same bytes as they did when they were first prepared."""
    prepare("ml-1m", f"--raw={write_ml_1m(tmp_path / 'raw')}", f"--out={tmp_path / 'out'}")
    reviews, metadata = write_amazon(tmp_path / "amazon")
    raw = [f"--raw-reviews={reviews}", f"--raw-metadata={metadata}", "--more-than=4"]
    prepare("amazon-book", *raw, f"--out={tmp_path / 'out'}")
    ratings, items = write_csv(tmp_path / "csv")
    out = prepare("csv", f"--ratings={ratings}", f"--items={items}", "--name=mine", f"--out={tmp_path / 'out'}")
    assert {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in SHA256} == SHA256


def test_titles_keep_their_letters_and_colons(tmp_path: Path) -> None:
    """Latin-1 becomes UTF-8, a title keeps its `::`, and every rated item has a line."""
    out = prepare("ml-1m", f"--raw={write_ml_1m(tmp_path / 'raw')}", f"--out={tmp_path / 'out'}")
    items = read(out / "ml-1m.item").set_index("item_id:token")
    assert items.loc["3"].tolist() == ["Séance 3: A :: B (1993)", "1993", "Drama Children's"]
    assert set(items.index) == set(rows_of(out)["item_id:token"])


def test_a_zip_and_a_folder_give_the_same_bytes_twice(tmp_path: Path) -> None:
    """In the JSON, only the names of the raw files differ."""
    raw = write_ml_1m(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for file in raw.iterdir():
            archive.write(file, f"ml-1m/{file.name}")
    outs = [
        prepare("ml-1m", f"--raw={source}", f"--out={tmp_path / name}")
        for name, source in (("a", raw), ("b", raw), ("c", tmp_path / "ml-1m.zip"))
    ]
    first, second, zipped = ({f.name: f.read_bytes() for f in out.iterdir()} for out in outs)
    assert first == second
    assert {n: b for n, b in zipped.items() if "json" not in n} == {n: b for n, b in first.items() if "json" not in n}


def test_the_json_counts_what_the_files_hold(tmp_path: Path) -> None:
    out = prepare("ml-1m", f"--raw={write_ml_1m(tmp_path / 'raw')}", f"--out={tmp_path / 'out'}")
    summary, rows = json.loads((out / "ml-1m.prepared.json").read_text()), rows_of(out)
    for split, counts in summary["splits"].items():
        here = rows[rows["split"] == split]
        assert counts["rows"] == len(here) and counts["users"] == here["user_id:token"].nunique()
        assert counts["liked"] == pytest.approx(here["label:float"].astype(float).mean(), abs=1e-4)
    assert summary["problems"] == {} and summary["raw_rows"] == 150


def _review(user: int, item: int, stars: float, day: str, **more: object) -> str:
    seconds = int(pd.Timestamp(day, tz="UTC").timestamp())
    return json.dumps(
        {"reviewerID": f"U{user}", "asin": f"B{item}", "overall": stars, "unixReviewTime": seconds, **more}
    )


def write_amazon(folder: Path) -> tuple[Path, Path]:
    """Write a gzipped review dump, and metadata with JSON and Python-literal lines."""
    folder.mkdir(exist_ok=True)
    reviews = [_review(1, 1, 5, "2016-12-31"), _review(1, 1, 5, "2018-01-01"), "not json", '{"asin": "B1"}']
    for user in range(5):
        for item in range(4):
            reviews.append(
                _review(user, item, 4 + (user + item) % 2, f"2017-{1 + 2 * item:02}-05", reviewText="x" * 50)
            )
        reviews += [
            _review(user, 5, 5 - user % 2, f"2017-12-{1 + user:02}"),
            _review(user, 6, 3, f"2017-12-{20 + user:02}"),
        ]
    reviews.append(_review(9, 1, 5, "2017-03-03"))  # a user with one rating
    with gzip.open(folder / "reviews.json.gz", "wt") as file:
        file.write("\n".join(reviews) + "\n")
    metadata = [json.dumps({"asin": f"B{n}", "title": f"Dune &amp; {n}\tII", "brand": "Ace"}) for n in range(6)]
    metadata.append("{'asin': 'B6', 'title': \"It's\", 'categories': [['Books', 'Sci']], 'price': 3.5}")
    metadata.append("__import__('os').system('touch pwned')")
    (folder / "meta.json").write_text("\n".join(metadata) + "\n")
    return folder / "reviews.json.gz", folder / "meta.json"


def test_amazon_book_is_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One year; users and items with enough ratings only; December is halved in time; five stars are liked."""
    monkeypatch.chdir(tmp_path)
    reviews, metadata = write_amazon(tmp_path / "raw")
    out = prepare(
        "amazon-book",
        f"--raw-reviews={reviews}",
        f"--raw-metadata={metadata}",
        "--more-than=4",
        f"--out={tmp_path / 'o'}",
    )
    rows = rows_of(out, "amazon-book")
    assert set(rows["user_id:token"]) == {f"U{n}" for n in range(5)}
    days = pd.to_datetime(rows["timestamp:float"].astype(int), unit="s")
    assert (days[rows["split"] == "train"].dt.month < 12).all() and (
        days[rows["split"] != "train"].dt.month == 12
    ).all()
    assert days[rows["split"] == "valid"].max() <= days[rows["split"] == "test"].min()
    assert ((rows["label:float"] == "1") == (rows["rating:float"] == "5")).all()
    titles = read(out / "amazon-book.item").set_index("item_id:token")["title:token_seq"]
    assert titles["B0"] == "Dune & 0 II" and titles["B6"] == "It's"
    problems = json.loads((out / "amazon-book.prepared.json").read_text())["problems"]
    assert problems["reviews.json.gz"]["line that is no JSON object"]["first_line"] == 3
    assert problems["meta.json"]["line that is no item"]["count"] == 1 and not Path("pwned").exists()


def write_csv(folder: Path, rows: list[str] | None = None, items: list[str] | None = None) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    good = [f"u{user},i{n},{1 + (user + n) % 5},{1_600_000_000 + 100 * n}" for user in range(4) for n in range(20)]
    titles = [f'i{n},"Title, ""{n}""",Drama' for n in range(20)]
    (folder / "r.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *(rows or []), *good]) + "\n")
    (folder / "m.csv").write_text("\n".join(["movieId,title,genres", *(items or []), *titles]) + "\n")
    return folder / "r.csv", folder / "m.csv"


# -- files --------------------------------------------------------------------------------------------------------


def test_several_files_are_replaced_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before the commit leaves the old files; after a later crash, the next reader gets the new ones."""

    def write(text: str) -> Callable[[Path], None]:
        return lambda folder: [(folder / name).write_text(text) for name in "ab"]  # type: ignore[return-value]

    replace_files(tmp_path, write("old"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            replace_files(tmp_path, write("new"))
    finish_replacing(tmp_path)
    assert [(tmp_path / n).read_text() for n in "ab"] == ["old", "old"]

    (tmp_path / ".committed").mkdir()
    (tmp_path / ".committed/b").write_text("newer")
    finish_replacing(tmp_path)
    assert [(tmp_path / n).read_text() for n in "ab"] == ["old", "newer"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_stale_files_are_removed_whatever_their_names(tmp_path: Path) -> None:
    """A dataset's name may hold a space; files that the new version lacks do not stay."""
    (tmp_path / "my data.item").write_text("old")
    replace_files(tmp_path, lambda folder: (folder / "my data.inter").write_text("new"), stale=["my data.item"])
    assert [path.name for path in tmp_path.iterdir()] == ["my data.inter"]


def test_items_and_columns_stay_apart(tmp_path: Path) -> None:
    """A second item with the same id is left out, also if its id has spaces; column names that repeat get numbers."""
    problems = FileProblems(tmp_path / "items.csv", strict=False)
    table = ItemTable(problems, ["x_4", "x", "x", "title"])
    table.add(2, "a b", "First", "1", "2", "3", "4")
    table.add(3, "a b", "Second", "1", "2", "3", "4")
    frame = table.finish()
    assert frame["title"].tolist() == ["First"] and "named before" in str(problems)
    assert len(set(frame.columns)) == 5


def test_plain_recbole_reads_the_files(tmp_path: Path) -> None:
    """RecBole's own general and sequential models read them with `benchmark_filename`, also rows without history."""
    repairs.apply_all()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    prepare("ml-1m", f"--raw={write_ml_1m(tmp_path / 'raw')}", f"--out={tmp_path / 'ml-1m'}")
    assert NO_HISTORY in (tmp_path / "ml-1m/ml-1m.train.inter").read_text("utf-8")
    for model in ("BPR", "SASRec"):
        config = Config(
            model=model,
            dataset="ml-1m",
            config_dict={
                "data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"], "epochs": 1,
                "alias_of_item_id": ["item_id_list"], "LABEL_FIELD": "label", "show_progress": False,
                "load_col": {"inter": ["user_id", "item_id", "timestamp", "label", "item_id_list"]},
                "metrics": ["AUC"], "valid_metric": "AUC", "use_gpu": False, "checkpoint_dir": str(tmp_path / "saved"),
                "eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "user", "mode": "labeled"},
                **({"train_neg_sample_args": None} if model == "SASRec" else {}),
            },
        )  # fmt: skip
        init_seed(1, True)
        dataset = create_dataset(config)
        train, valid, _ = data_preparation(config, dataset)
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset))
        assert 0 <= trainer.fit(train, valid, saved=False, verbose=False)[0] <= 1


def test_a_run_on_ml_1m_prepares_it_from_the_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raw files are in dataset/ml-1m/, and the run prepares them there."""
    import recbole_cora

    monkeypatch.chdir(tmp_path)
    write_ml_1m(tmp_path / "dataset/ml-1m")
    result = recbole_cora.run(model="Averages", dataset="ml-1m", options={"show_progress": False})
    assert result["rows"] == {"train": 30, "valid": 30, "test": 30}
    assert result["test_warm_at_least_3"]["rows"] <= result["test_warm"]["rows"]


def test_errors_of_a_reader_are_data_errors(tmp_path: Path) -> None:
    """The error says that the archive is damaged."""
    from recbole_cora.prepare.lines import lines_of

    (tmp_path / "r.json.gz").write_bytes(gzip.compress(b"x\n" * 1000)[:-9])
    with pytest.raises(DataError, match="is damaged"):
        list(lines_of(tmp_path / "r.json.gz", show_progress=False))
    (tmp_path / "r.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is damaged"):
        list(lines_of(tmp_path / "r.zip", show_progress=False, member="ratings.dat"))
