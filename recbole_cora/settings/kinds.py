"""What a setting is: its name, type, range and default, and one sentence that says what it does."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from recbole_cora.errors import nearest

#: The values of settings, by key. A value is whatever YAML can express.
SettingValues: TypeAlias = Mapping[str, Any]

#: The names of types in messages.
_NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list",
    dict: "a mapping such as {key: value}", object: "any value",
}  # fmt: skip
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True)
class Setting:
    """One key that a user may set.

    Attributes:
        name: the key.
        kind: int, float, bool, str, list, dict, or object (anything).
        default: where no preset, file or option says otherwise.
        help: what it does, in a sentence.
        optional: whether None (`~` in YAML) is a value too.
        least, most: the smallest and largest number (of a list: item).
        above, below: the same, but themselves outside the range.
        one_of: the only values (of a list: items) there are.
        item: kind of a list's items; object: anything.
        letters: of a text: the letters that it may be made of, each at most once.
        word: a text that stands for a value of its own beside the kind, such as `auto`.
        shapes_results: False for what changes neither weights nor scores: paths, logging, how work is cut.
    """

    name: str
    kind: type
    default: Any = None
    help: str = ""
    optional: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    one_of: tuple[Any, ...] = ()
    item: type = object
    letters: str | None = None
    word: str | None = None
    shapes_results: bool = True

    def read(self, value: Any) -> Any:
        """Return `value` as this setting holds it.

        Raises:
            ValueError: it is of another type or outside the range; the message says what was got and expected.
        """
        if value is None and self.optional:
            return None
        if self.word is not None and value == self.word:
            return list(self.one_of) if self.kind is list else value
        if self.kind is list:
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                value = [value]  # one item may stand without brackets
            if isinstance(value, (list, tuple)):
                items = [self._one(item, self.item) for item in value]
                if all(ok for ok, _ in items):
                    return [item for _, item in items]
        else:
            ok, value_read = self._one(value, self.kind)
            if ok:
                return value_read
        near = nearest(value, map(str, self.one_of)) if isinstance(value, str) else ""
        raise ValueError(f"{self.name} is {_shown(value)}{near}; expected {self.expected}")

    def _one(self, value: Any, kind: Any) -> tuple[bool, Any]:
        """Whether a single value is of `kind` and in range, and the value as it is then held."""
        if kind is bool and isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            value = value.lower() in _TRUE
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if isinstance(self.default, float) else value
        number = kind in (int, float)
        right: Any = (int, float) if kind is float else kind
        if not isinstance(value, right) or (number and isinstance(value, bool)):
            return False, value
        if number and not self._in_range(value):
            return False, value
        if kind is str and ("\0" in value or not self._spelled(value)):
            return False, value
        return not self.one_of or value in self.one_of, value

    def _spelled(self, text: str) -> bool:
        return self.letters is None or (0 < len(text) == len(set(text)) and set(text) <= set(self.letters))

    def _in_range(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def expected(self) -> str:
        """The type and range in words, such as `a whole number of at least 1`."""
        options = ", ".join(map(str, self.one_of))
        if self.kind is list:
            what = f"a list of some of {options}" if options else f"a list{_plural(self.item)}"
            what += self._range if self.item in (int, float) else ""
        elif options:
            what = f"one of {options}"
        elif self.letters:
            what = f"some of the letters {self.letters}, each at most once"
        else:
            what = _NAMES[self.kind] + self._range
        words = [self.word] if self.word else []
        words += ["~ (none)"] if self.optional else []
        return " or ".join([what, *words])

    @property
    def _range(self) -> str:
        low = f"of at least {_number(self.least)}" if self.least is not None else ""
        low = f"above {_number(self.above)}" if self.above is not None else low
        high = f"at most {_number(self.most)}" if self.most is not None else ""
        high = f"below {_number(self.below)}" if self.below is not None else high
        return "".join(f" {part}" for part in (" and ".join(filter(None, (low, high))),) if part)

    @property
    def short(self) -> str:
        """The type and range as a comment has them, such as `int, at least 1`."""
        name = self.kind.__name__ if self.kind is not object else "any"
        if self.kind is list and self.item is not object:
            name = f"list of {self.item.__name__}"
        if self.one_of:
            name += ": " + "|".join(map(str, self.one_of))
        elif self.letters:
            name += f", letters of {self.letters}"
        elif self._range:
            name += "," + self._range.replace(" of at least", " at least")
        return name + (f" or {self.word}" if self.word else "") + (" or ~" if self.optional else "")


def _plural(item: type) -> str:
    return {int: " of whole numbers", float: " of numbers", str: " of texts"}.get(item, "")


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _shown(value: Any) -> str:
    text = "~ (none)" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Declare a field of a group of settings; `limits` are attributes of `Setting`."""
    metadata = {"help": " ".join(help.split()), **limits}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of_group(group: type) -> dict[str, Setting]:
    """The settings that a group (a frozen dataclass of `setting` fields) declares, by name, in order."""
    hints = typing.get_type_hints(group)
    declared = {}
    for field in dataclasses.fields(group):
        kind, optional, item = _kind_of(hints[field.name])
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        declared[field.name] = Setting(
            field.name, kind, default, optional=optional, item=field.metadata.get("item", item),
            **{key: value for key, value in field.metadata.items() if key != "item"},
        )  # fmt: skip
    return declared


def _kind_of(hint: Any) -> tuple[type, bool, type]:
    """The kind, whether None is a value, and the kind of the items, of a field's type."""
    optional = False
    if isinstance(hint, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = len(inner) < len(typing.get_args(hint)), inner[0]
    origin = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    item = arguments[0] if origin is list and arguments else object
    return (origin if origin in _NAMES else object), optional, (item if item in _NAMES else object)


def defaults_of(declared: Mapping[str, Setting]) -> dict[str, Any]:
    """The default of each setting."""
    return {name: each.default for name, each in declared.items()}
