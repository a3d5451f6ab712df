"""Find the columns of ratings and items by their usual names, and say in one line which are missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from recbole_cora.errors import DataError, nearest
from recbole_cora.prepare.times import find_format, numbers

#: Usual names of a column, most usual first; compared without case, spaces, `_`, `-` and RecBole's `:type`.
GUESSES = {
    "user": (
        "user_id", "userid", "user", "uid", "reviewerid", "customer_id", "session_id", "customer", "reader",
        "reader_id", "reviewer", "member_id", "member", "account_id", "visitor_id", "client_id", "person_id",
        "viewer_id", "player_id", "username", "user_name", "nutzer", "nutzer_id", "kunde", "kunden_id", "kundennummer",
    ),
    "item": (
        "item_id", "itemid", "item", "iid", "movieid", "movie_id", "book_id", "isbn", "asin", "product_id",
        "parent_asin", "book", "movie", "film", "film_id", "product", "article_id", "article", "track_id", "track",
        "song_id", "song", "game_id", "game", "show_id", "anime_id", "recipe_id", "recipe", "anime", "video_id",
        "video", "course_id", "course", "news_id", "business_id", "isbn13", "sku", "content_id", "artist_id",
        "artikel", "artikel_id", "artikelnummer", "buch", "buch_id",
    ),
    "rating": (
        "rating", "ratings", "score", "stars", "overall", "label", "book-rating", "star_rating", "user_rating", "rate",
        "my_rating", "points", "review_score", "bewertung", "sterne", "note",
    ),
    "time": (
        "timestamp", "time", "date", "datetime", "created_at", "unixreviewtime", "rating_time", "rated_at",
        "review_date", "date_added", "event_time", "ts", "created", "watched_at", "read_at", "when", "timestamp_ms",
        "datum", "zeit", "zeitpunkt",
    ),
    "title": (
        "title", "name", "movie_title", "item_title", "book_title", "book-title", "product_title", "original_title",
        "item_name", "product_name", "track_name", "movie_name", "titel",
    ),
}  # fmt: skip
#: Names of the id column of an item file in addition to those of an item.
_ITEM_FILE_ID = ("id",)
FLAGS = {what: f"--{what}-column" for what in GUESSES} | {"items_id": "--items-id-column"}
_WORDS = {"items_id": "item id"}
#: What to do without a column: an option, and when it is right.
_WITHOUT = {
    "rating": ("--implicit", "each row is a like"),
    "time": ("--no-time", "the rows are in order of time"),
}


class MissingColumns(DataError):
    """Columns that were not found.

    Attributes:
        flags: the options that would name them, such as `--user-column=who`.
    """

    def __init__(self, message: str, flags: list[str]) -> None:
        super().__init__(message)
        self.flags = flags


def plain(name: str) -> str:
    """Return a column's name as it is compared: its letters and digits in lower case, without RecBole's type."""
    return re.sub(r"[\W_]", "", name.split(":")[0].lower())


def find_columns(
    path: object, header: Sequence[str], names: Mapping[str, str | None]
) -> tuple[dict[str, int], list[str], list[str]]:
    """Return the places of the columns that exist, which ones were not found, and what is wrong with given names.

    Args:
        names: the wanted columns (keys of FLAGS) with their names; None finds one by GUESSES.
    """
    places: dict[str, int] = {}
    missing: list[str] = []
    problems: list[str] = []
    for what, name in names.items():
        if name is not None:
            if name in header:
                places[what] = list(header).index(name)
            else:
                near = nearest(name, header)
                problems.append(f"{path} has no column '{name}'{near} (it has {shown(header)})")
            continue
        place = _guess(what, header)
        if place is None:
            missing.append(what)
        else:
            places[what] = place
    return places, missing, problems


def id_places(header: Sequence[str], first: str | None) -> list[int]:
    """Return the columns of an item file that are named like an item's id, the likeliest first.

    Args:
        first: what the ratings file calls its items.
    """
    names = [plain(cell) for cell in header]
    guesses = [plain(name) for name in ((first,) if first is not None else ()) + GUESSES["item"] + _ITEM_FILE_ID]
    return list(dict.fromkeys(names.index(guess) for guess in guesses if guess in names))


def missing_columns(
    path: object, header: Sequence[str], sample: Sequence[Sequence[str]], places: Mapping[str, int], missing: list[str]
) -> MissingColumns:
    """Return one error about all missing columns, with the file's header and the options that name the likely ones."""
    words = [_WORDS.get(what, what) for what in missing]
    listed = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    message = f"{path} has the columns {shown(header)}; none is named like the {listed}"
    if sum(np.isfinite(numbers(header))) >= 2:
        header_line = "user,item,rating,time" if "user" in missing else "item,title"
        return MissingColumns(f"{message}; put a header such as {header_line} above the data", [])
    likely = _likely(header, sample, places, missing)
    flags = []
    for what in missing:
        if what in _WITHOUT and what not in likely:
            flag, condition = _WITHOUT[what]
            message += f" (no {what} is needed if {condition}: {flag})"
            flags.append(flag)
        else:
            flags.append(f"{FLAGS[what]}={likely.get(what, 'NAME')}")
    return MissingColumns(message, flags)


def shown(header: Sequence[str]) -> str:
    """Return a header for a message."""
    return ascii(", ".join(header))[1:-1][:200]


def _guess(what: str, header: Sequence[str]) -> int | None:
    if what == "items_id":
        return next(iter(id_places(header, None)), None)
    names = [plain(cell) for cell in header]
    return next((names.index(plain(guess)) for guess in GUESSES[what] if plain(guess) in names), None)


def _likely(
    header: Sequence[str], sample: Sequence[Sequence[str]], places: Mapping[str, int], missing: list[str]
) -> dict[str, str]:
    """Return the unused column that looks most like each missing one."""
    free = [place for place in range(len(header)) if place not in places.values()]
    cells = {place: [row[place] for row in sample] for place in free}
    looks = {
        "time": lambda place: _is_time(cells[place]),
        "rating": lambda place: _is_rating(cells[place]),
        "title": lambda place: any(" " in cell for cell in cells[place]),
    }
    likely: dict[str, str] = {}
    for what in sorted(missing, key=lambda what: list(looks).index(what) if what in looks else len(looks)):
        place = next((p for p in free if what not in looks or looks[what](p)), None)
        if place is not None:
            likely[what] = header[place]
            free.remove(place)
    return likely


def _is_time(cells: Sequence[str]) -> bool:
    values = numbers(cells)
    if np.isfinite(values).mean() > 0.5 if len(cells) else True:
        return bool(len(cells)) and float(np.nanmedian(values)) >= 1e8
    try:
        find_format(cells, "")
    except DataError as error:
        return "cannot be told apart" in str(error)
    return True


def _is_rating(cells: Sequence[str]) -> bool:
    values = numbers([cell.replace(",", ".") for cell in cells])
    return bool(len(cells)) and bool(np.isfinite(values).mean() > 0.5) and len(set(cells)) <= 101
