"""Pages made from the declarations: --help of a model and of a command, properties/*.yaml, docs/settings.md."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from recbole_cora.settings.kinds import Setting, settings_of_group
from recbole_cora.settings.models import MODELS
from recbole_cora.settings.overall import GROUPS
from recbole_cora.settings.parts import PARTS
from recbole_cora.settings.recbole import recbole_model_kinds
from recbole_cora.settings.resolve import groups_of

_WIDTH = 120
_HELP_COLUMN = 34

# -- --help ------------------------------------------------------------------------------------------------------------


def model_help(model: str) -> str:
    """Return the settings of a model, grouped by part, each with its default, type and sentence."""
    lines = [f"Settings of {model}: --key=value, or `key: value` in a YAML file (--config_files=FILE)."]
    for title, settings in groups_of(model).items():
        lines += ["", title, *(line for each in settings.values() for line in _help_lines(each))]
    return "\n".join(lines) + "\n"


def command_help(group: type) -> str:
    """Return the usage and the options of a command."""
    doc = textwrap.dedent("    " + (group.__doc__ or "")).strip()
    lines = ["usage: " + doc, "", "options"]
    lines += [line for each in settings_of_group(group).values() for line in _help_lines(each)]
    return "\n".join(lines) + "\n"


def models_page() -> str:
    """Return the names of all models, by kind."""
    kinds = recbole_model_kinds()
    lines = ["of this package", *_wrapped(", ".join(name for name in MODELS if name not in kinds), "  ")]
    for kind in dict.fromkeys(kinds.values()):
        lines += [f"RecBole's, {kind}", *_wrapped(", ".join(n for n, k in kinds.items() if k == kind), "  ")]
    return "\n".join(lines) + "\n"


def _help_lines(each: Setting) -> list[str]:
    head = f"  --{each.name}={_yaml(each.default)}"
    text = f"({each.short}) {each.help}".rstrip()
    lines = _wrapped(text, " " * _HELP_COLUMN)
    if len(head) < _HELP_COLUMN - 1:
        return [head.ljust(_HELP_COLUMN) + lines[0].strip(), *lines[1:]]
    return [head, *lines]


# -- files -------------------------------------------------------------------------------------------------------------


def yaml_pages() -> dict[str, str]:
    """Return the text of each file of properties/ that the declarations make, by its path there."""
    pages = {"overall.yaml": _OVERALL + "".join(f"\n# {_title(group)}\n{_yaml_lines(group)}" for group in GROUPS)}
    for part in PARTS:
        pages[f"parts/{part.file}.yaml"] = f"# {_title(part)}\n\n{_yaml_lines(part)}"
    for name, group in MODELS.items():
        chosen = "".join(f"{key}: {_yaml(value)}\n" for key, value in group.defaults.items())
        pages[f"model/{name}.yaml"] = f"# {_title(group)}\n" + "\n".join(filter(None, ("", _yaml_lines(group), chosen)))
    return {path: text.replace("\n\n\n", "\n\n") for path, text in pages.items()}


_OVERALL = """\
# Defaults of every model. This file and those in parts/ and model/ are written from recbole_cora/settings/ by
# `python -m recbole_cora.settings`: read them here, change them there, set them in a file of yours or as --key=value.
# Order: RecBole's YAML < this file < parts/ < model/<name>.yaml < dataset/<name>.yaml < llm/tiny.yaml
#        < --config_files= < --key=value
"""


def docs_page() -> str:
    """Return docs/settings.md: every setting of this package, by group."""
    lines = [
        "# Settings", "",
        "Written by `python -m recbole_cora.settings` from the declarations in `recbole_cora/settings/`.",
        "`recbole-cora run --help --model=NAME` shows the settings of one model with RecBole's own.", "",
    ]  # fmt: skip
    for group in (*GROUPS, *PARTS, *MODELS.values()):
        settings = settings_of_group(group)
        defaults = getattr(group, "defaults", {})
        lines += [f"## {group.__name__}", "", _title(group), ""]
        if settings:
            lines += ["| key | default | type | |", "|---|---|---|---|"]
            lines += [
                f"| `{each.name}` | `{_yaml(each.default)}` | {each.short.replace('|', ' / ')} | {each.help} |"
                for each in settings.values()
            ]
            lines += [""]
        if defaults:
            lines += ["Its own defaults: " + ", ".join(f"`{k}: {_yaml(v)}`" for k, v in defaults.items()) + ".", ""]
    return "\n".join(lines)


def write_pages(root: Path) -> None:
    """Write the YAML files and docs/settings.md of a checkout."""
    for path, text in {
        **{f"properties/{p}": t for p, t in yaml_pages().items()},
        "docs/settings.md": docs_page(),
    }.items():
        (root / path).write_text(text, encoding="utf-8")


def _title(group: type) -> str:
    return " ".join((group.__doc__ or "").split())


def _yaml_lines(group: type) -> str:
    lines = []
    for each in settings_of_group(group).values():
        head = f"{each.name}: {_yaml(each.default)}"
        first, *rest = _wrapped(f"({each.short}) {each.help}", "# ", width=_WIDTH - _HELP_COLUMN)
        if len(head) >= _HELP_COLUMN - 1:
            lines += [" " * _HELP_COLUMN + first, *(" " * _HELP_COLUMN + line for line in rest), head]
        else:
            lines += [head.ljust(_HELP_COLUMN) + first, *(" " * _HELP_COLUMN + line for line in rest)]
    return "".join(f"{line}\n" for line in lines)


def _yaml(value: Any) -> str:
    """A value on one line, as YAML reads it."""
    if value is None:
        return "~"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float):
        return str(value) if "e" not in repr(value) else repr(value)
    plain = isinstance(value, str) and value and value.strip() == value and not set(value) & set("\t:#[]{},'\"")
    return str(value) if plain or isinstance(value, bool) or not isinstance(value, str) else json.dumps(value)


def _wrapped(text: str, indent: str, width: int = _WIDTH) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [indent]
