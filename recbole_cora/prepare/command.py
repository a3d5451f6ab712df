"""`recbole-cora prepare DATASET ...`, and the automatic preparation of ml-1m when a run needs it."""

from __future__ import annotations

import argparse
import logging
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from recbole_cora.errors import CoraError, DataError, SettingError, raise_all
from recbole_cora.files import finish_replacing
from recbole_cora.prepare import amazon, amazon_2023, goodreads, movielens, table, values
from recbole_cora.prepare.arguments import parse
from recbole_cora.prepare.catalogue import amazon_2023_files, goodreads_files, is_prepared, listing, raw_of
from recbole_cora.prepare.columns import FLAGS, MissingColumns
from recbole_cora.prepare.negatives import Negatives
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import Raw
from recbole_cora.prepare.recipe import Recipe
from recbole_cora.prepare.write import Summary, prepare

log = logging.getLogger()

ML_1M = Recipe("ml-1m", like=4, boundaries=("2001-06-01", "2002-04-01", "2002-09-01", "2003-02-01"))
_DATASETS = Path("dataset")


def prepare_command(arguments: list[str]) -> None:
    """Prepare a dataset. Log what is written and, on the last lines, its folder and a command that uses it."""
    if "--list" in arguments:
        print(listing(_DATASETS), end="")
        return
    options, mistakes = parse(arguments)
    mistakes += _contradictions(options)
    name = _name_of_csv(options, mistakes, arguments) if options.dataset == "csv" else _name(options)
    raise_all(mistakes, SettingError)
    out: Path = options.out or _DATASETS / name
    finish_replacing(out)
    if not options.force:
        _refuse_existing(name, out)
    problems = Problems(options.strict)
    raw = _read(options, out, problems)
    if getattr(options, "implicit", False):
        raw.rating = np.ones_like(raw.rating)
    _log_summary(prepare(raw, _recipe(options, name, raw), problems, out), out)
    log.info(f"next: {_next_command(name, out, raw)}")


def _contradictions(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with options that depend on one another."""
    if not hasattr(options, "implicit"):
        return []
    problems = []
    if options.shares and options.windows:
        problems.append("--shares and --windows are two ways to split; give only one of them")
    if options.implicit and options.like is not None:
        problems.append("--like is about ratings, but with --implicit each row is a like; give only one of them")
    sampling = ("negatives", "negatives_by", "seed")
    sampling_flags = [f"--{key.replace('_', '-')}" for key in sampling if getattr(options, key) is not None]
    if sampling_flags and not options.implicit:
        problems.append(f"{' and '.join(sampling_flags)} samples dislikes, which only --implicit does; add it")
    return problems


def _name(options: argparse.Namespace) -> str:
    """Return the name of a dataset other than `csv`."""
    part = getattr(options, "category", None) or getattr(options, "genre", None)
    default = f"{options.dataset}-{part}" if part else options.dataset
    return getattr(options, "name", None) or default


def _name_of_csv(options: argparse.Namespace, mistakes: list[str], arguments: list[str]) -> str:
    """Return the name of the user's dataset. Mistakes that the headers of the files reveal go to `mistakes`."""
    name: str = options.name or ""
    if options.ratings is None:
        if not any(mistake.startswith("--ratings") for mistake in mistakes):
            mistakes.append("--ratings=FILE is missing")
        return name
    _, errors = table.examine(_table_options(options))
    mistakes += _with_remedy(errors, arguments if not mistakes else None)
    if not name and not any(mistake.startswith("--name") for mistake in mistakes):
        try:
            name = values.name_of(options.ratings)
        except SettingError as error:
            mistakes.append(str(error))
    return name


def _with_remedy(errors: list[CoraError], arguments: list[str] | None) -> list[str]:
    """Return the messages of the errors, and how to name the missing columns.

    That is one command line, ready to be pasted, if nothing else is wrong: then `arguments` are those of this command.
    """
    missing = [error for error in errors if isinstance(error, MissingColumns)]
    flags = [flag for error in missing for flag in error.flags]
    if arguments is None or len(missing) < len(errors):
        return [*map(str, errors), *([f"add {shlex.join(flags)}"] if flags else [])]
    command = [f"try: recbole-cora prepare {shlex.join([*arguments, *flags])}"] if flags else []
    return [*map(str, missing), *command]


def _refuse_existing(name: str, out: Path) -> None:
    if is_prepared(name, out):
        raise DataError(
            f"{out} already holds a dataset '{name}'; give another --name= or --out=, or --force to replace it"
        )


def _read(options: argparse.Namespace, out: Path, problems: Problems) -> Raw:
    """Read the raw files of a dataset, which are downloaded if need be."""
    show_progress = not options.quiet
    if options.dataset == "csv":
        return table.read(_table_options(options), problems, show_progress)
    if options.dataset == "amazon-book":
        return amazon.read(options.raw_reviews, options.raw_metadata, options.year, problems, show_progress)
    if options.dataset == "amazon-2023":
        pair = _pair("--raw-reviews", options.raw_reviews, "--raw-metadata", options.raw_metadata)
        reviews, metadata = pair or amazon_2023_files(options.category, out, show_progress)
        return amazon_2023.read(reviews, metadata, problems, show_progress)
    if options.dataset == "goodreads":
        pair = _pair("--raw-interactions", options.raw_interactions, "--raw-books", options.raw_books)
        interactions, books = pair or goodreads_files(options.genre, out, show_progress)
        return goodreads.read(interactions, books, problems, options.implicit, show_progress)
    raw = options.raw or raw_of(options.dataset, out, show_progress)
    return (movielens.read if options.dataset == "ml-1m" else movielens.read_csv)(raw, problems, show_progress)


def _pair(flag: str, file: Path | None, other_flag: str, other: Path | None) -> tuple[Path, Path] | None:
    """Return both files, or None without any. Raises SettingError if only one is given."""
    if file is not None and other is not None:
        return file, other
    if file is not None or other is not None:
        missing = other_flag if file is not None else flag
        raise SettingError(
            f"{missing}=FILE is missing: give both {flag}= and {other_flag}=, or neither to download them"
        )
    return None


def _table_options(options: argparse.Namespace) -> table.TableOptions:
    columns = {what: getattr(options, flag.strip("-").replace("-", "_")) for what, flag in FLAGS.items()}
    return table.TableOptions(
        options.ratings, options.items, columns, options.separator, options.encoding, options.time_format,
        options.implicit, not options.no_time, options.item_words,
    )  # fmt: skip


def _recipe(options: argparse.Namespace, name: str, raw: Raw) -> Recipe:
    if options.dataset == "ml-1m":
        return ML_1M
    if options.dataset == "amazon-book":
        return amazon_recipe(options.year, options.more_than)
    like = options.like if options.like is not None else 4.0 if raw.rating.max() > 1 else 1.0
    recipe = Recipe(name, like, options.windows, options.shares, options.split == "user", options.more_than)
    if not options.implicit:
        return recipe
    chosen = {"per_like": options.negatives, "by": options.negatives_by, "seed": options.seed}
    negatives = Negatives(**{key: value for key, value in chosen.items() if value is not None})
    return replace(recipe, negatives=negatives)


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
    if name == ML_1M.name and not is_prepared(name, folder):
        log.info(f"preparing {name} in {folder}")
        problems = Problems()
        raw = movielens.read(raw_of(name, folder, show_progress), problems, show_progress)
        _log_summary(prepare(raw, ML_1M, problems, folder), folder)


def _log_summary(summary: Summary, folder: Path) -> None:
    log.info(summary.line())
    log.info(f"written to {folder}")


def _next_command(name: str, out: Path, raw: Raw) -> str:
    """Return a command that uses the dataset: CoRA if it has titles, else MF."""
    data = [] if out.parent == _DATASETS else [f"--data_path={out.parent}"]
    arguments = [f"--model={'MF' if raw.items is None else 'CoRA'}", f"--dataset={name}", *data]
    if out.name != name:
        return f"move {out} to a folder named {name}, then: recbole-cora run {shlex.join(arguments)}"
    return f"recbole-cora run {shlex.join(arguments)}"
