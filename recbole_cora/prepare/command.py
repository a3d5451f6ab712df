"""`recbole-cora prepare DATASET ...`, and datasets that prepare themselves when a run asks for them."""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from recbole_cora.data.protocol import SPLITS
from recbole_cora.errors import SettingError, raise_all
from recbole_cora.files import finish_replacing
from recbole_cora.prepare import amazon, movielens, table
from recbole_cora.prepare.download import download
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.recipe import Recipe, counts_line, prepare

log = logging.getLogger()

ML_1M = Recipe("ml-1m", like=4, boundaries=("2001-06-01", "2002-04-01", "2002-09-01", "2003-02-01"))
ML_1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML_1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # as GroupLens publishes it beside the archive

_DESCRIPTION = """\
Turn raw ratings into RecBole's atomic files, split once and for all. What cannot be a rating is counted, reported with
its first line, and left out; --strict makes it an error."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message} (see {self.prog} --help)")


def _arguments(problems: list[str]) -> _Parser:
    """Return the parser. What is wrong with values of `csv` goes to `problems`, so that all of it can be said at once.

    Such a value reads as None then.
    """

    def noted(flag: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(text: str) -> Any:
            try:
                return convert(text)
            except (ValueError, SettingError, argparse.ArgumentTypeError) as error:
                problems.append(f"{flag}: {error}")
                return None

        return read

    top = _Parser(prog="recbole-cora prepare", description=_DESCRIPTION)
    common = _Parser(add_help=False)
    common.add_argument("--out", type=_path, metavar="DIR", help="folder of the files (default: dataset/NAME)")
    common.add_argument("--strict", action="store_true", help="the first bad row is an error")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    datasets = top.add_subparsers(dest="dataset", required=True, parser_class=_Parser)

    one = datasets.add_parser("ml-1m", parents=[common], help="MovieLens-1M, the CoRA paper's split")
    one.add_argument("--raw", type=_path, metavar="DIR_OR_ZIP", help="GroupLens's files (default: downloaded)")

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
    book.add_argument("--more-than", type=int, default=20, help="ratings of a kept user and item (default: 20)")

    own = datasets.add_parser("csv", parents=[common], help="your own ratings and items")
    own.add_argument(
        "--ratings", type=noted("--ratings", _path), metavar="FILE", help="one rating a row, with a header"
    )
    own.add_argument(
        "--items",
        type=noted("--items", _path),
        metavar="FILE",
        help="one item a row, with its title; CoRA's prompts need it",
    )
    own.add_argument("--name", type=noted("--name", _name), help="of the dataset (default: the ratings file's)")
    for what in table.GUESSES:
        own.add_argument(
            f"--{what}-column", metavar="NAME", help=f"default: one of {', '.join(table.GUESSES[what][:4])}..."
        )
    own.add_argument("--separator", help="between cells (default: by the file's ending and header)")
    own.add_argument(
        "--like",
        type=noted("--like", _finite),
        help="least rating that is liked (default: 4; 1 for labels 0 and 1)",
    )
    own.add_argument(
        "--more-than",
        type=noted("--more-than", _count),
        default=0,
        help="ratings of a kept user and item (default: all)",
    )
    own.add_argument(
        "--shares", type=noted("--shares", _shares), metavar="T,V,T", help="in time (default: 0.8,0.1,0.1)"
    )
    own.add_argument(
        "--windows",
        type=noted("--windows", _windows),
        metavar="D,D,D,D",
        help="four UTC dates, train | valid | test between; not with --shares",
    )
    own.add_argument(
        "--split",
        type=noted("--split", _split),
        metavar="{user,global}",
        default="user",
        help="cut each user's rows, or all at once",
    )
    return top


def prepare_command(arguments: list[str]) -> None:
    """`prepare`: the counts, then on the last line the folder."""
    mistakes: list[str] = []
    parser = _arguments(mistakes)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        mistakes.append(f"unrecognized arguments: {' '.join(unknown)} (see {parser.prog} {options.dataset} --help)")
    problems, show = Problems(options.strict), not options.quiet
    if options.dataset != "csv":
        raise_all(mistakes, SettingError)
    if options.dataset == "ml-1m":
        recipe = ML_1M
        out = options.out or Path("dataset") / recipe.name
        raw = movielens.read(options.raw or _ml_1m_archive(out, show), problems, show)
    elif options.dataset == "amazon-book":
        recipe = amazon_recipe(options.year, options.more_than)
        out = options.out or Path("dataset") / recipe.name
        raw = amazon.read(options.raw_reviews, options.raw_metadata, options.year, problems, show)
    else:
        columns = {what: getattr(options, f"{what}_column") for what in table.GUESSES}
        name = _checked_csv(options, columns, mistakes)
        raw = table.read(options.ratings, options.items, problems, columns, options.separator, show)
        like = options.like if options.like is not None else 4.0 if raw.rating.max() > 1 else 1.0
        recipe = Recipe(name, like, options.windows, options.shares, options.split == "user", options.more_than)
        out = options.out or Path("dataset") / name
    _say(prepare(raw, recipe, problems, out), out)


def _checked_csv(options: argparse.Namespace, columns: dict[str, str | None], mistakes: list[str]) -> str:
    """Return the dataset's name. Raises SettingError that names the mistakes, and all others of options and files."""
    if options.shares and options.windows:
        mistakes.append("--shares and --windows are two ways to split; give one of them")
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
    """January to November train; December, in time, half valid and half test; label 1 for five stars. As in the public
    notebook, nothing but the two counts is filtered: a pair reviewed twice stays twice."""
    months = (f"{year}-01-01", f"{year}-12-01", f"{year + 1}-01-01")
    return Recipe("amazon-book", like=5, boundaries=months, more_than=more_than, drop_repeats=False)


def prepare_by_itself(name: str, folder: Path, show_progress: bool = True) -> None:
    """Before a run reads `folder`: finish what a crash has interrupted; prepare ml-1m where its files are not there.

    Raises:
        DataError: the raw files are neither there nor to be had.
    """
    finish_replacing(folder)
    there = (folder / f"{name}.inter").is_file() or all((folder / f"{name}.{s}.inter").is_file() for s in SPLITS)
    if name == ML_1M.name and not there:
        log.info(f"preparing {name} in {folder}")
        problems = Problems()
        raw = movielens.read(_ml_1m_archive(folder, show_progress), problems, show_progress)
        _say(prepare(raw, ML_1M, problems, folder), folder)


def _ml_1m_archive(folder: Path, show_progress: bool) -> Path:
    """Where MovieLens-1M's raw files lie: in the folder, in one inside it as the archive unpacks, or the archive."""
    for place in (folder, folder / "ml-1m"):
        if all((place / name).is_file() for name in movielens.FILES):
            return place
    archive = folder / "ml-1m.zip"
    remedy = f"download it elsewhere and put it into {folder}, or give --raw=DIR_OR_ZIP to recbole-cora prepare ml-1m"
    return download(ML_1M_URL, archive, ML_1M_MD5, remedy, show_progress)


def _say(summary: dict[str, Any], folder: Path) -> None:
    log.info(counts_line(summary))
    log.info(f"written to {folder}")


def _path(text: str) -> Path:
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise SettingError(f"the dataset's name is {text!r}; give --name= of letters, digits, '-', '_' and '.'")
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
