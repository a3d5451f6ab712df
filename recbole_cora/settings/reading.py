"""Reading settings: YAML files, single values, and `--key=value` arguments. Nothing is ever evaluated.

Values are YAML by its core rules (YAML 1.2): only true and false are booleans, so that `yes` and `off` stay words, 1e-3
is a number, 010 is ten and 2001-06-01 is text. Anchors are refused: a page of them can unfold into gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from recbole_cora.errors import SettingError

_PACKAGE = Path(__file__).resolve().parent.parent
#: In an installed wheel the folder lies inside the package, in a checkout beside it.
PROPERTIES = next(p for p in (_PACKAGE / "properties", _PACKAGE.parent / "properties") if p.is_dir())

_MOST_BYTES = 1 << 20  # of a file of settings


class CoreLoader(yaml.SafeLoader):
    """YAML's safe loader by the core rules, without anchors, with text for keys and each key once."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's way: those of the parent are not wanted)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not read", event.start_mark)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is there twice", key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)  # type: ignore[no-untyped-call]
        return mapping

    def construct_yaml_map(self, node: Any) -> Any:
        return self.construct_mapping(node)

    def construct_number(self, node: Any) -> int | float:
        """A whole number, also in the forms 0o17 and 0x1f, or a floating one."""
        text = self.construct_scalar(node)
        if re.fullmatch(r"[-+]?[0-9]+", text):
            return int(text)
        if re.fullmatch(r"0o[0-7]+|0x[0-9a-fA-F]+", text):
            return int(text, 0)
        return float(text.replace(".inf", "inf").replace(".nan", "nan").lower())


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
CoreLoader.add_constructor("tag:yaml.org,2002:map", CoreLoader.construct_yaml_map)
CoreLoader.add_constructor("tag:yaml.org,2002:int", CoreLoader.construct_number)
CoreLoader.add_constructor("tag:yaml.org,2002:float", CoreLoader.construct_number)


def read_value(text: str) -> Any:
    """Return one command-line value, read as YAML. Raises SettingError where it is not YAML."""
    try:
        return yaml.load(text, Loader=CoreLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise SettingError(
            f"cannot read the value {text[:80]!r}; expected a YAML value such as 0.001, true or [a, b]"
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file of settings.

    Raises:
        SettingError: it is missing, no regular file, larger than a megabyte, not YAML, or no mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise SettingError(f"{path} is no file; give the path of a YAML file")
        if path.stat().st_size > _MOST_BYTES:
            raise SettingError(f"{path} has {path.stat().st_size:,} bytes; expected a YAML file of settings")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=CoreLoader)
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise SettingError(f"{path} is not UTF-8 text; give the path of a YAML file") from None
        why = getattr(error, "strerror", None) or error
        raise SettingError(f"cannot read the settings file {path} ({why}); give the path of a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        why = f" ({error.problem})" if isinstance(error, yaml.constructor.ConstructorError) else ""
        raise SettingError(f"{path} is not YAML{where}{why}; expected lines of the form 'key: value'") from None
    except RecursionError:
        raise SettingError(f"{path} is nested too deeply; expected lines of the form 'key: value'") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(f"{path} holds a {type(content).__name__}; expected lines of the form 'key: value'")
    return content


def parse_arguments(arguments: list[str], alone: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return `--key=value` arguments as a dict; `--key value` is taken too. The first `=` ends the key.

    Args:
        alone: values of keys that may stand without one.

    Raises:
        SettingError: an argument of another form, a key without a value, a key with two values.
    """
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise SettingError(f"got the argument {argument[:80]!r}; expected --key=value")
        key, equals, text = argument[2:].partition("=")
        if equals or (rest and not rest[0].startswith("--")):
            text = text if equals else rest.pop(0)
            value = text.split() if key == "config_files" else read_value(text)
        elif key in alone:
            value = alone[key]
        else:
            raise SettingError(f"--{key} has no value; write --{key}=value")
        if key in options and options[key] != value:
            raise SettingError(f"--{key} is given twice, as {options[key]!r} and {value!r}; keep one")
        options[key] = value
    return options
