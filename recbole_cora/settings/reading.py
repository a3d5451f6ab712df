"""Readers of YAML files, single values and `--key=value` arguments. Nothing is ever evaluated as code.

Values follow YAML 1.2's core schema: only true and false are booleans, so `yes` and `off` stay words; 1e-3 is a number,
010 is ten, and 2001-06-01 is text. Anchors are refused: a short file of them can expand to gigabytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from recbole_cora.errors import SettingError
from recbole_cora.settings.kinds import SettingValues

_PACKAGE = Path(__file__).resolve().parent.parent
#: The folder is inside the package in an installed wheel, and beside it in a checkout.
PROPERTIES = next(p for p in (_PACKAGE / "properties", _PACKAGE.parent / "properties") if p.is_dir())

_MAX_FILE_BYTES = 1 << 20


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader for the core schema. It refuses anchors, repeated keys and keys that are not text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's form; it drops the parent's resolvers)

    def compose_node(self, parent: yaml.Node | None, index: int | yaml.Node | None) -> yaml.Node:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' occurs twice", key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)  # type: ignore[no-untyped-call]
        return mapping

    def construct_yaml_map(self, node: yaml.MappingNode) -> dict[str, Any]:
        return self.construct_mapping(node)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return a whole number (0o17 and 0x1f are also read) or a floating-point number."""
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
    """Return a command-line value, read as YAML. Raises SettingError if it is not YAML."""
    try:
        return yaml.load(text, Loader=CoreLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise SettingError(
            f"cannot read the value {text[:80]!r}; expected a YAML value such as 0.001, true or [a, b]"
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file of settings.

    Raises:
        SettingError: the file is missing, not a regular file, larger than 1 MiB, not YAML, or not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise SettingError(f"{path} is not a regular file; give the path of a YAML file")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SettingError(f"{path} has {path.stat().st_size:,} bytes; expected a YAML file of at most 1 MiB")
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


def parse_arguments(arguments: list[str], alone: SettingValues = MappingProxyType({})) -> dict[str, Any]:
    """Return `--key=value` or `--key value` arguments as a dict. The first `=` ends the key.

    Args:
        alone: keys that need no value, each with the value that it has without one.

    Raises:
        SettingError: an argument has another form, or a key has no value or two different values.
    """
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise SettingError(f"unexpected argument {argument[:80]!r}; expected --key=value")
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
