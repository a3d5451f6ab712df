"""The command line of `recbole-cora prepare`. A wrong value is kept as a mistake, so that all are reported together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from recbole_cora.errors import SettingError, nearest
from recbole_cora.prepare import values
from recbole_cora.prepare.columns import FLAGS, GUESSES
from recbole_cora.prepare.encodings import check_encoding
from recbole_cora.prepare.item_words import split_words
from recbole_cora.prepare.negatives import WAYS
from recbole_cora.prepare.times import read_format

T = TypeVar("T")

_DESCRIPTION = """\
Turn raw ratings into RecBole's atomic files with a fixed split. Rows that cannot be ratings are counted, reported with
the first line number, and left out; --strict makes them an error."""
_EPILOG = "recbole-cora prepare --list shows the datasets, their size and origin, and which of them are here."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message} (see {self.prog} --help)")


class _Options:
    """Adds options to a parser. A wrong value becomes None and goes to `mistakes`."""

    def __init__(self, parser: _Parser, mistakes: list[str]) -> None:
        self.parser, self._mistakes = parser, mistakes

    def add(self, flag: str, convert: Callable[[str], T], **options: Any) -> None:
        def read(text: str) -> T | None:
            try:
                return convert(text)
            except (ValueError, SettingError, argparse.ArgumentTypeError) as error:
                self._mistakes.append(f"{flag}: {error}")
                return None

        self.parser.add_argument(flag, type=read, **options)

    def add_switch(self, flag: str, help: str) -> None:
        self.parser.add_argument(flag, action="store_true", help=help)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and every mistake in them. An underscore in an option's name is read as a hyphen.

    Raises:
        SettingError: there is no dataset, or none of this name.
    """
    mistakes: list[str] = []
    parser, subparsers = _parser(mistakes)
    options, others = parser.parse_known_args(list(map(_with_hyphens, arguments)))
    if others:
        flags = [flag for action in subparsers[options.dataset]._actions for flag in action.option_strings]
        near = nearest(others[0].split("=")[0], flags)
        mistakes.append(
            f"unrecognized arguments: {' '.join(others)}{near} (see {parser.prog} {options.dataset} --help)"
        )
    return options, mistakes


def _with_hyphens(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + equals + value


def _parser(mistakes: list[str]) -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    top = _Parser(prog="recbole-cora prepare", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--list", action="store_true", help="list the datasets and exit")  # done by prepare_command
    common = _Options(_Parser(add_help=False), mistakes)
    common.parser.add_argument(
        "--out", type=values.path, metavar="DIR", help="folder for the files (default: dataset/NAME)"
    )
    common.add_switch("--force", "replace a dataset of this name")
    common.add_switch("--strict", "stop with an error at the first bad row")
    common.add_switch("--quiet", "no progress bars")
    splitting = _Options(_Parser(add_help=False), mistakes)
    _add_splitting(splitting)
    datasets = top.add_subparsers(dest="dataset", required=True, parser_class=_Parser)

    def dataset(name: str, help: str, *parents: _Options) -> _Options:
        parser = datasets.add_parser(
            name, parents=[parent.parser for parent in parents], help=help, description=help, allow_abbrev=False
        )
        return _Options(parser, mistakes)

    raw = {"metavar": "DIR_OR_ZIP", "help": "GroupLens's files (default: downloaded)"}
    dataset("ml-1m", "MovieLens-1M, the CoRA paper's split", common).add("--raw", values.path, **raw)
    for name in ("ml-20m", "ml-32m"):
        dataset(name, f"MovieLens-{name[3:].upper()}", common, splitting).add("--raw", values.path, **raw)
    _add_amazon_book(dataset("amazon-book", "Amazon books, the CoRA paper's split", common))
    amazon = dataset("amazon-2023", "a category of the Amazon Reviews 2023", common, splitting)
    amazon.add("--category", values.name, default="All_Beauty", help="such as Books (default: All_Beauty)")
    _add_pair(amazon, ("--raw-reviews", "reviews"), ("--raw-metadata", "metadata"))
    goodreads = dataset("goodreads", "a genre of Goodreads's books", common, splitting)
    goodreads.add("--genre", values.name, default="poetry", help="such as children (default: poetry)")
    _add_pair(goodreads, ("--raw-interactions", "interactions"), ("--raw-books", "books"))
    _add_csv(dataset("csv", "your own ratings and items", common, splitting))
    return top, dict(datasets.choices)


def _add_splitting(options: _Options) -> None:
    """Add what a like is, which rows are used, and how they are split."""
    options.add("--like", values.finite, help="lowest liked rating (default: 4; csv: 1 if no rating is above 1)")
    options.add("--more-than", values.count, default=0, help="keep users and items with more rows than this")
    options.add("--shares", values.shares, metavar="T,V,T", help="of train, valid, test in time (default: 0.8,0.1,0.1)")
    options.add("--windows", values.windows, metavar="D,D,D,D", help="four UTC dates that bound train, valid and test")
    options.add(
        "--split",
        values.one_of("user", "global"),
        metavar="{user,global}",
        default="user",
        help="split the rows of each user, or all rows together (default: user)",
    )
    options.add_switch("--implicit", "each row is a like; sampled items that the user does not have are dislikes")
    options.add("--negatives", values.positive, metavar="N", help="sampled dislikes per like (default: 4)")
    options.add("--negatives-by", values.one_of(*WAYS), metavar="{uniform,popularity}", help="(default: uniform)")
    options.add("--seed", values.count, help="of the sampled dislikes (default: 1)")


def _add_amazon_book(book: _Options) -> None:
    book.add("--raw-reviews", values.path, required=True, metavar="FILE", help="reviews, .json or .json.gz")
    book.add("--raw-metadata", values.path, required=True, metavar="FILE", help="metadata, .json or .json.gz")
    years = range(1990, 2100)
    book.parser.add_argument(
        "--year", type=int, choices=years, metavar="YEAR", default=2017, help="reviews of this year (default: 2017)"
    )
    book.add(
        "--more-than", values.count, default=20, help="keep users and items with more ratings than this (default: 20)"
    )


def _add_pair(options: _Options, *files: tuple[str, str]) -> None:
    for flag, what in files:
        options.add(flag, values.path, metavar="FILE", help=f"{what}, gzipped or not (default: downloaded)")
    options.add("--name", values.name, help="name of the dataset")


def _add_csv(options: _Options) -> None:
    options.add("--ratings", values.path, metavar="FILE", help="one rating per row, with a header: CSV, TSV, Parquet")
    options.add("--items", values.path, metavar="FILE", help="one item per row, with its title; prompts need it")
    options.add("--name", values.name, help="name of the dataset (default: that of the ratings file)")
    for column, guesses in GUESSES.items():
        text = f"default: one of {', '.join(guesses[:4])}..."
        options.parser.add_argument(FLAGS[column], metavar="NAME", help=text)
    text = "id in the item file (default: as in the ratings file)"
    options.parser.add_argument(FLAGS["items_id"], metavar="NAME", help=text)
    words = "columns of the item file that are words (default: those with text)"
    options.add("--item-words", split_words, metavar="NAME,NAME", help=words)
    times = "how times are written, such as %%d.%%m.%%Y, or s, ms, us, ns, iso (default: found)"
    options.add("--time-format", read_format, metavar="FORMAT", help=times)
    options.add_switch("--no-time", "there is no time; the rows are in order")
    options.parser.add_argument("--separator", help="character between cells (default: found)")
    options.add("--encoding", check_encoding, help="such as utf-8 or latin-1 (default: found)")
