"""docs/adding-a-model.md is true: these tests follow it to the letter."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recbole_cora import registry
from recbole_cora.settings import models
from tests.contract import ModelContract, world

__all__ = ["world"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "adding-a-model.md"
#: The code blocks by file; the first line of each block names it.
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(autouse=True, scope="module")
def install_page() -> Iterator[None]:
    """Install the page's class as a module, its settings among the models', and its line in the registry."""
    name = "recbole_cora.models.biased"
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(BLOCKS["recbole_cora/models/biased.py"], name, "exec"), module.__dict__)
    namespace = dict(vars(models))
    exec(BLOCKS["recbole_cora/settings/models.py"], namespace)
    line = yaml.safe_load(BLOCKS["recbole_cora/registry.py"].strip().rstrip(","))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "Biased", namespace["Biased"])
        for key, value in line.items():
            patch.setitem(registry.OURS, key, value)
        yield
    del sys.modules[name]


def _test_class() -> type[ModelContract]:
    namespace: dict[str, type[ModelContract]] = {"ModelContract": ModelContract}
    exec(BLOCKS["tests/test_models.py"], namespace)
    return namespace["TestBiased"]


TestBiased = _test_class()


def test_the_page_names_every_part() -> None:
    """The page's table lists exactly the parts that models can need."""
    page = PAGE.read_text(encoding="utf-8")
    needs = set().union(*(group.needs for group in models.MODELS.values()))
    assert set(re.findall(r'^\| `"(\w+)"` \|', page, re.MULTILINE)) == needs
