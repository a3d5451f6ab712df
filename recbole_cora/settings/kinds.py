"""A setting: its name, type, range, default and help."""

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
_ITEMS = {int: " of whole numbers", float: " of numbers", str: " of texts"}
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True)
class Setting:
    """One key that a user may set. The limits apply to the value or, for a list, to each item.

    Attributes:
        name: the key.
        kind: int, float, bool, str, list, dict, or object (anything).
        default: the value unless a preset, file or option sets another.
        help: a sentence on what it does.
        optional: whether None (`~` in YAML) is allowed.
        least, most: smallest and largest number.
        above, below: exclusive bounds of a number.
        one_of: the allowed values, if they can be listed.
        item: kind of a list's items; object allows anything.
        letters: the only letters that a text may use, each at most once.
        word: a special text, such as `auto`, that is allowed in addition to values of `kind`.
        shapes_results: False for a setting that changes neither weights nor scores: paths, logging, how work is split.
        neutral: the value with which a run equals one from before the setting existed; it is left out of content keys,
            so that finished runs keep theirs.
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
    neutral: Any = None

    def read(self, value: object) -> Any:
        """Return `value`, converted to this setting's type.

        Raises:
            ValueError: `value` has another type or is out of range; the message states it and what was expected.
        """
        if value is None and self.optional:
            return None
        if self.word is not None and value == self.word:
            return list(self.one_of) if self.kind is list else value
        if self.kind is list:
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                value = [value]  # a single item needs no brackets
            if isinstance(value, (list, tuple)):
                items = [self._convert(item, self.item) for item in value]
                if all(ok for ok, _ in items):
                    return [item for _, item in items]
        else:
            ok, new_value = self._convert(value, self.kind)
            if ok:
                return new_value
        near = nearest(value, map(str, self.one_of)) if isinstance(value, str) else ""
        raise ValueError(f"{self.name} is {_quoted(value)}{near}; expected {self.expected}")

    def _convert(self, value: Any, kind: type) -> tuple[bool, Any]:
        """Return whether a single value is of `kind` and in range, and the value converted to it."""
        if kind is bool and isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            value = value.lower() in _TRUE
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if isinstance(self.default, float) else value
        number = kind in (int, float)
        python_type: Any = (int, float) if kind is float else kind
        if not isinstance(value, python_type) or (number and isinstance(value, bool)):
            return False, value
        if number and not self._in_range(value):
            return False, value
        if kind is str and ("\0" in value or not self._has_only_letters(value)):
            return False, value
        return not self.one_of or value in self.one_of, value

    def _has_only_letters(self, text: str) -> bool:
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
            values = f"a list of some of {options}" if options else f"a list{_ITEMS.get(self.item, '')}"
            values += self._range if self.item in (int, float) else ""
        elif options:
            values = f"one of {options}"
        elif self.letters:
            values = f"some of the letters {self.letters}, each at most once"
        else:
            values = _NAMES[self.kind] + self._range
        words = [self.word] if self.word else []
        words += ["~ (none)"] if self.optional else []
        return " or ".join([values, *words])

    @property
    def _range(self) -> str:
        low = f"of at least {_number(self.least)}" if self.least is not None else ""
        low = f"above {_number(self.above)}" if self.above is not None else low
        high = f"at most {_number(self.most)}" if self.most is not None else ""
        high = f"below {_number(self.below)}" if self.below is not None else high
        bounds = " and ".join(filter(None, (low, high)))
        return f" {bounds}" if bounds else ""

    @property
    def short(self) -> str:
        """The type and range in short, for comments and --help, such as `int, at least 1`."""
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


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _quoted(value: object) -> str:
    text = "~ (none)" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def setting(default: Any, help: str, **limits: object) -> Any:
    """Declare a field of a group of settings. `limits` are further attributes of `Setting`."""
    metadata = {"help": " ".join(help.split()), **limits}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of_group(group: type) -> dict[str, Setting]:
    """Return the settings of a group (a frozen dataclass of `setting` fields), by name and in order."""
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
    """Return a field's kind, whether None is allowed, and the kind of a list's items, from its type hint."""
    optional = False
    if isinstance(hint, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = len(inner) < len(typing.get_args(hint)), inner[0]
    origin = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    item = arguments[0] if origin is list and arguments else object
    return (origin if origin in _NAMES else object), optional, (item if item in _NAMES else object)


def defaults_of(declared: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the default of each setting."""
    return {name: each.default for name, each in declared.items()}
