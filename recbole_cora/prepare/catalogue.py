"""The datasets that can be prepared: their size, their origin, their raw files, and whether they are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recbole_cora.data.protocol import SPLITS
from recbole_cora.prepare import movielens
from recbole_cora.prepare.download import download

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets"


@dataclass(frozen=True)
class Source:
    """A dataset that can be prepared.

    Attributes:
        size: ratings, users and items, as the publisher states them.
        origin: where its raw files come from.
        md5: of the archive, if `prepare` can download it; GroupLens publishes it beside the archive.
        files: names of the raw files, if they may lie in the dataset's folder.
    """

    name: str
    size: str
    origin: str
    md5: str | None = None
    files: tuple[str, ...] = ()


SOURCES = (
    Source("ml-100k", "100,000 ratings, 943 users, 1,682 movies", "comes with RecBole; needs no preparation"),
    Source(
        "ml-1m", "1,000,209 ratings, 6,040 users, 3,900 movies", f"{_GROUPLENS}/ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906", movielens.FILES,
    ),
    Source(
        "ml-20m", "20,000,263 ratings, 138,493 users, 27,278 movies", f"{_GROUPLENS}/ml-20m.zip",
        "cd245b17a1ae2cc31bb14903e1204af3", movielens.CSV_FILES,
    ),
    Source(
        "ml-32m", "32,000,204 ratings, 200,948 users, 87,585 movies", f"{_GROUPLENS}/ml-32m.zip",
        "d472be332d4daa821edc399621853b57", movielens.CSV_FILES,
    ),
    Source("amazon-book", "reviews of one year", "https://nijianmo.github.io/amazon (Books, by a form)"),
    Source("amazon-2023", "a category (--category=)", "https://amazon-reviews-2023.github.io"),
    Source("goodreads", "a genre (--genre=)", "https://mengtingwan.github.io/data/goodreads"),
    Source("csv", "your own ratings", "CSV, TSV or Parquet files: --ratings= and --items="),
)  # fmt: skip
BY_NAME = {source.name: source for source in SOURCES}


def is_prepared(name: str, folder: Path) -> bool:
    """Return whether a folder holds the ratings of a dataset."""
    files = [folder / f"{name}.{split}.inter" for split in SPLITS]
    return (folder / f"{name}.inter").is_file() or all(file.is_file() for file in files)


def listing(root: Path) -> str:
    """Return the table of `prepare --list`: a line per dataset, then those in `root` that are not in the catalogue."""
    rows = [("dataset", "size", "origin", "here")]
    rows += [(source.name, source.size, source.origin, _where(source, root)) for source in SOURCES]
    folders = sorted(root.iterdir()) if root.is_dir() else []
    own_datasets = [folder for folder in folders if folder.name not in BY_NAME and is_prepared(folder.name, folder)]
    rows += [(folder.name, "", "prepared before", str(folder)) for folder in own_datasets]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _where(source: Source, root: Path) -> str:
    folder = root / source.name
    if source.name == "ml-100k":
        return "yes"
    if is_prepared(source.name, folder):
        return f"prepared in {folder}"
    if source.files and _raw_files(source, folder) is not None:
        return f"raw files in {folder}"
    return "" if source.name == "csv" else "no"


def raw_of(name: str, folder: Path, show_progress: bool) -> Path:
    """Return the raw files of a MovieLens dataset, in `folder` or `folder`/NAME, or its archive, downloaded if needed.

    Raises:
        DataError: they are neither here nor can be downloaded.
    """
    source = BY_NAME[name]
    if (place := _raw_files(source, folder)) is not None:
        return place
    remedy = f"download it yourself into {folder}, or give --raw=DIR_OR_ZIP to recbole-cora prepare {name}"
    return download(source.origin, folder / f"{name}.zip", source.md5, remedy, show_progress)


def _raw_files(source: Source, folder: Path) -> Path | None:
    for place in (folder, folder / source.name):
        if all((place / name).is_file() for name in source.files):
            return place
    archive = folder / f"{source.name}.zip"
    return archive if archive.is_file() else None


def amazon_2023_files(category: str, folder: Path, show_progress: bool) -> tuple[Path, Path]:
    """Return the reviews and the metadata of a category, downloaded into `folder` if they are not there."""
    base = f"{_UCSD}/data/amazon_2023/raw"
    urls = (
        f"{base}/review_categories/{category}.jsonl.gz",
        f"{base}/meta_categories/meta_{category}.jsonl.gz",
    )
    return _pair(urls, folder, "--raw-reviews=FILE and --raw-metadata=FILE", show_progress)


def goodreads_files(genre: str, folder: Path, show_progress: bool) -> tuple[Path, Path]:
    """Return the interactions and the books of a genre, downloaded into `folder` if they are not there."""
    base = f"{_UCSD}/gdrive/goodreads/byGenre"
    urls = (f"{base}/goodreads_interactions_{genre}.json.gz", f"{base}/goodreads_books_{genre}.json.gz")
    return _pair(urls, folder, "--raw-interactions=FILE and --raw-books=FILE", show_progress)


def _pair(urls: tuple[str, str], folder: Path, flags: str, show_progress: bool) -> tuple[Path, Path]:
    names = [url.rsplit("/", 1)[1] for url in urls]
    paths = []
    for url, name in zip(urls, names, strict=True):
        unpacked = folder / name.removesuffix(".gz")
        remedy = f"download {' and '.join(urls)} yourself into {folder}, or give {flags}"
        paths.append(unpacked if unpacked.is_file() else download(url, folder / name, None, remedy, show_progress))
    return paths[0], paths[1]
