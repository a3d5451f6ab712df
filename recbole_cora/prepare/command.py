"""`recbole-cora prepare DATASET ...`, and the automatic preparation of ml-1m when a run needs it."""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from recbole_cora.data.protocol import SPLITS
from recbole_cora.errors import SettingError, raise_all
from recbole_cora.files import finish_replacing
from recbole_cora.prepare import amazon, movielens, table
from recbole_cora.prepare.download import download
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.recipe import Recipe, Summary, prepare

if TYPE_CHECKING:
    _Datasets = argparse._SubParsersAction["_Parser"]

T = TypeVar("T")

log = logging.getLogger()

ML_1M = Recipe("ml-1m", like=4, boundaries=("2001-06-01", "2002-04-01", "2002-09-01", "2003-02-01"))
ML_1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML_1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # GroupLens publishes it beside the archive

_DESCRIPTION = """\
Turn raw ratings into RecBole's atomic files with a fixed split. Rows that cannot be ratings are counted, reported with
the first line number, and left out; --strict makes them an error."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message} (see {self.prog} --help)")


def _parser(problems: list[str]) -> _Parser:
    """Return the parser; see `_add_csv` about `problems`."""
    top = _Parser(prog="recbole-cora prepare", description=_DESCRIPTION)
    common = _Parser(add_help=False)
    common.add_argument("--out", type=_path, metavar="DIR", help="folder for the files (default: dataset/NAME)")
    common.add_argument("--strict", action="store_true", help="stop with an error at the first bad row")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    datasets = top.add_subparsers(dest="dataset", required=True, parser_class=_Parser)
    ml_1m = datasets.add_parser("ml-1m", parents=[common], help="MovieLens-1M, the CoRA paper's split")
    ml_1m.add_argument("--raw", type=_path, metavar="DIR_OR_ZIP", help="GroupLens's files (default: downloaded)")
    _add_amazon_book(datasets, common)
    _add_csv(datasets, common, problems)
    return top


def _add_amazon_book(datasets: _Datasets, common: _Parser) -> None:
    book = datasets.add_parser("amazon-book", parents=[common], help="Amazon books, the CoRA paper's split")
    book.add_argument("--raw-reviews", type=_path, required=True, metavar="FILE", help="reviews, .json or .json.gz")
    book.add_argument("--raw-metadata", type=_path, required=True, metavar="FILE", help="metadata, .json or .json.gz")
    book.add_argument(
        "--year",
        type=int,
        choices=range(1990, 2100),
        metavar="YEAR",
        default=2017,
        help="reviews of this year (default: 2017)",
    )
    book.add_argument(
        "--more-than", type=int, default=20, help="keep users and items with more ratings than this (default: 20)"
    )


def _add_csv(datasets: _Datasets, common: _Parser, problems: list[str]) -> None:
    """Add the dataset `csv`. Wrong values become None and go to `problems`, to be reported together."""

    def lenient(flag: str, convert: Callable[[str], T]) -> Callable[[str], T | None]:
        def read(text: str) -> T | None:
            try:
                return convert(text)
            except (ValueError, SettingError, argparse.ArgumentTypeError) as error:
                problems.append(f"{flag}: {error}")
                return None

        return read

    def add(flag: str, convert: Callable[[str], object], **options: Any) -> None:
        parser.add_argument(flag, type=lenient(flag, convert), **options)

    parser = datasets.add_parser("csv", parents=[common], help="your own ratings and items")
    add("--ratings", _path, metavar="FILE", help="one rating per row, with a header")
    add("--items", _path, metavar="FILE", help="one item per row, with its title; CoRA's prompts need it")
    add("--name", _name, help="name of the dataset (default: that of the ratings file)")
    for column, guesses in table.GUESSES.items():
        parser.add_argument(f"--{column}-column", metavar="NAME", help=f"default: one of {', '.join(guesses[:4])}...")
    parser.add_argument("--separator", help="character between cells (default: from the file's name and header)")
    add("--like", _finite, help="lowest liked rating (default: 4, or 1 if no rating is above 1)")
    add("--more-than", _count, default=0, help="keep users and items with more ratings than this (default: all)")
    add(
        "--shares",
        _shares,
        metavar="T,V,T",
        help="shares of train, valid, test in time order (default: 0.8,0.1,0.1)",
    )
    add(
        "--windows",
        _windows,
        metavar="D,D,D,D",
        help="four UTC dates that bound train, valid and test; not with --shares",
    )
    add(
        "--split",
        _split,
        metavar="{user,global}",
        default="user",
        help="split the rows of each user, or all rows together (default: user)",
    )


def prepare_command(arguments: list[str]) -> None:
    """Prepare a dataset. Log its counts and, on the last line, its folder."""
    mistakes: list[str] = []
    parser = _parser(mistakes)
    options, others = parser.parse_known_args(arguments)
    if others:
        mistakes.append(f"unrecognized arguments: {' '.join(others)} (see {parser.prog} {options.dataset} --help)")
    problems, show_progress = Problems(options.strict), not options.quiet
    if options.dataset != "csv":
        raise_all(mistakes, SettingError)
    if options.dataset == "ml-1m":
        recipe = ML_1M
        out = options.out or Path("dataset") / recipe.name
        raw = movielens.read(options.raw or _ml_1m_raw(out, show_progress), problems, show_progress)
    elif options.dataset == "amazon-book":
        recipe = amazon_recipe(options.year, options.more_than)
        out = options.out or Path("dataset") / recipe.name
        raw = amazon.read(options.raw_reviews, options.raw_metadata, options.year, problems, show_progress)
    else:
        columns = {column: getattr(options, f"{column}_column") for column in table.GUESSES}
        name = _checked_csv(options, columns, mistakes)
        raw = table.read(options.ratings, options.items, problems, columns, options.separator, show_progress)
        like = options.like if options.like is not None else 4.0 if raw.rating.max() > 1 else 1.0
        recipe = Recipe(name, like, options.windows, options.shares, options.split == "user", options.more_than)
        out = options.out or Path("dataset") / name
    _log_summary(prepare(raw, recipe, problems, out), out)


def _checked_csv(options: argparse.Namespace, columns: dict[str, str | None], mistakes: list[str]) -> str:
    """Return the dataset's name. Raises SettingError that names all `mistakes`, and those in options and files."""
    if options.shares and options.windows:
        mistakes.append("--shares and --windows are two ways to split; give only one of them")
    name: str = options.name or ""
    if options.ratings is None:
        if not any(mistake.startswith("--ratings") for mistake in mistakes):
            mistakes.append("--ratings=FILE is missing")
    else:
        mistakes += table.mistakes(options.ratings, options.items, columns, options.separator)
        if not name and not any(mistake.startswith("--name") for mistake in mistakes):
            try:
                name = _name(options.ratings.name.split(".")[0])
            except SettingError as error:
                mistakes.append(str(error))
    raise_all(mistakes, SettingError)
    return name


def amazon_recipe(year: int, more_than: int) -> Recipe:
    """Return the paper's recipe: January to November is train; December, in order of time, is half valid and half test.

    Five stars give label 1. As in the public notebook, only the two counts filter rows: a pair that was reviewed twice
    has two rows.
    """
    months = (f"{year}-01-01", f"{year}-12-01", f"{year + 1}-01-01")
    return Recipe("amazon-book", like=5, boundaries=months, more_than=more_than, drop_repeats=False)


def prepare_by_itself(name: str, folder: Path, show_progress: bool = True) -> None:
    """Make `folder` ready for a run: finish a preparation that a crash interrupted, and prepare ml-1m if it is missing.

    Raises:
        DataError: the raw files are neither in the folder nor available for download.
    """
    finish_replacing(folder)
    is_prepared = (folder / f"{name}.inter").is_file() or all((folder / f"{name}.{s}.inter").is_file() for s in SPLITS)
    if name == ML_1M.name and not is_prepared:
        log.info(f"preparing {name} in {folder}")
        problems = Problems()
        raw = movielens.read(_ml_1m_raw(folder, show_progress), problems, show_progress)
        _log_summary(prepare(raw, ML_1M, problems, folder), folder)


def _ml_1m_raw(folder: Path, show_progress: bool) -> Path:
    """Return MovieLens-1M's raw files: the folder with them (`folder`, or `ml-1m` in it), or the downloaded archive."""
    for place in (folder, folder / "ml-1m"):
        if all((place / name).is_file() for name in movielens.FILES):
            return place
    archive = folder / "ml-1m.zip"
    remedy = f"download it yourself into {folder}, or give --raw=DIR_OR_ZIP to recbole-cora prepare ml-1m"
    return download(ML_1M_URL, archive, ML_1M_MD5, remedy, show_progress)


def _log_summary(summary: Summary, folder: Path) -> None:
    log.info(summary.line())
    log.info(f"written to {folder}")


def _path(text: str) -> Path:
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path: it has a NUL character")
    return Path(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise SettingError(f"the dataset's name is {text!r}; give a --name= of letters, digits, '-', '_' and '.'")
    return text


def _count(text: str) -> int:
    try:
        count = int(text)
        if count < 0:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0") from None
    return count


def _split(text: str) -> str:
    if text not in ("user", "global"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'user' nor 'global'")
    return text


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (_finite(part) for part in text.split(","))
        if min(train, valid, test) <= 0:
            raise ValueError
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares above 0, such as 0.8,0.1,0.1") from None
    return train, valid, test


def _windows(text: str) -> tuple[str, ...]:
    days = tuple(text.split(","))
    try:
        if len(days) != 4 or sorted(map(date.fromisoformat, days)) != [date.fromisoformat(d) for d in days]:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not four dates in order, such as 2001-06-01,2002-04-01,2002-09-01,2003-02-01"
        ) from None
    return days
