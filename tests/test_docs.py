"""docs/adding-a-model.md is true: what it says is done here, to the letter."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_cora import registry, settings
from tests.contract import ModelContract, world

__all__ = ["world"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "adding-a-model.md"
#: By the file that the first line of each block names.
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(autouse=True, scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's class in its place, its YAML in a copy of properties/, its line in the registry."""
    name = "recbole_cora.models.biased"
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(BLOCKS["recbole_cora/models/biased.py"], name, "exec"), module.__dict__)
    properties = tmp_path_factory.mktemp("page") / "properties"
    shutil.copytree(settings.PROPERTIES, properties)
    (properties / "model" / "Biased.yaml").write_text(BLOCKS["properties/model/Biased.yaml"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "PROPERTIES", properties)
        patch.setitem(registry.OURS, "Biased", module.Biased)  # type: ignore[attr-defined]
        yield
    del sys.modules[name]


def _test_class() -> Any:
    place: dict[str, Any] = {"ModelContract": ModelContract}
    exec(BLOCKS["tests/test_models.py"], place)
    return place["TestBiased"]


TestBiased = _test_class()


def test_the_page_names_every_part() -> None:
    """The table of needs is the program's."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = set().union(*(getattr(cls, "needs", set()) for cls in registry.OURS.values()))
    assert set(re.findall(r'^\| `"(\w+)"` \|', page, re.MULTILINE)) == wanted
