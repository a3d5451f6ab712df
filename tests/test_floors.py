"""Files import only downward, and the method's files need neither recbole nor ray."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "recbole_cora"
#: A folder's name stands for its files that are not named on another floor.
FLOORS = [
    {"errors", "files", "cache", "processes", "pace", "progress"},
    {"settings", "metrics", "statistics", "summary", "repairs", "data.protocol", "prompts.template"},
    {"data", "prompts", "cf", "llm", "generator", "prepare"},
    {"models"},
    {"training"},
    {"registry", "cf.evidence", "parts", "quick_start"},
    {"compare", "tune", "cli"},
]
_PLACES = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def _floor(name: str) -> int:
    """Return the floor of a module, or of its folder if the module itself is not in FLOORS."""
    return _PLACES[name] if name in _PLACES else _PLACES[name.split(".")[0]]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
NAMES = {_name(path) for path in FILES}
#: The files of this package that each file imports, at its top or inside functions.
OURS = {
    _name(path): {i.removeprefix("recbole_cora.") for i in _imports(path) if i.startswith("recbole_cora.")} & NAMES
    for path in FILES
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_file_imports_only_downward(name: str) -> None:
    """A file imports from its own floor or a lower one."""
    for imported in OURS[name]:
        assert _floor(imported) <= _floor(name), f"{name} imports {imported} from above"


def test_imports_form_no_circle() -> None:
    """No file imports itself through others, even on one floor; imports in functions and for types count."""
    order = TopologicalSorter({name: {i for i in OURS[name] if i != name} for name in NAMES})
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_heavy_imports_have_one_place(path: Path) -> None:
    """transformers is imported by llm/hub.py alone, peft by llm/lora.py, ray by tune/search.py and
    tune/ray_versions.py,
    recbole.quick_start (it imports ray) by no file, and the generator, the prompts and llm/ import no recbole."""
    tops = {i.split(".")[0] for i in _imports(path)}
    assert "peft" not in tops or _name(path) == "llm.lora"
    assert "transformers" not in tops or _name(path) == "llm.hub"
    assert "ray" not in tops or _name(path) in ("tune.search", "tune.ray_versions")
    assert "recbole.quick_start" not in _imports(path)
    if _name(path).startswith(("llm", "generator", "prompts", "errors", "files")):
        assert "recbole" not in tops
