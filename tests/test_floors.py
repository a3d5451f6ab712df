"""Files import only downward, and the method's files need neither recbole nor ray."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "recbole_cora"
FLOORS = [
    {"errors", "files", "cache", "processes"},
    {"protocol", "prompts", "settings", "config", "repairs", "metrics", "report", "recbole_needs"}
    | {"settings.kinds", "settings.reading", "settings.overall", "settings.parts", "settings.models"}
    | {"settings.recbole", "settings.commands", "settings.resolve", "settings.presets", "settings.pages"}
    | {"settings.__main__"},
    {"restore", "llm_choice", "ratings", "rows_dataset", "row_prompts", "row_features", "cf", "controls"}
    | {"prepare", "prepare.command", "prepare.recipe", "prepare.raw", "prepare.problems", "prepare.lines"}
    | {"prepare.download", "prepare.movielens", "prepare.amazon", "prepare.table"}
    | {"generator", "llm", "llm.hub", "llm.frozen", "llm.answers", "llm.families", "llm.deltas", "llm.tiny"}
    | {"llm.fingerprint", "llm.packed", "llm.prefix", "llm.recompute", "llm.lora", "llm.vectors", "llm.ways"},
    {"models", "models.icl", "models.tallrec", "models.prompt4nr", "models.personprompt", "models.collm"}
    | {"models.binllm", "models.binary_codes", "models.cora", "models.mf", "models.lgcn", "models.sas"}
    | {"models.averages", "models.history_features", "checkpoint", "training_state"},
    {"board", "microbatches", "loss_in_parts", "trainer", "stage"},
    {"registry", "evidence", "run_folder", "parts", "parts.stages", "parts.encoder", "parts.llm", "quick_start"},
    {"compare", "compare.experiment", "compare.runs", "compare.child", "compare.table", "compare.command", "cli"}
    | {"tune", "tune.space", "tune.trials", "tune.search", "tune.command"},
]  # fmt: skip
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_imports_only_downward(path: Path) -> None:
    """A file imports from its own floor or a lower one, and every file has a floor."""
    ours = {i.removeprefix("recbole_cora.") for i in _imports(path) if i.startswith("recbole_cora.")}
    for imported in ours & set(FLOOR):
        assert FLOOR[imported] <= FLOOR[_name(path)], f"{_name(path)} imports {imported} from above"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_heavy_imports_have_one_place(path: Path) -> None:
    """transformers is imported by llm/hub.py alone, peft by llm/lora.py, ray by tune/search.py,
    recbole.quick_start (it imports ray) by no file, and the generator, the prompts and llm/ import no recbole."""
    tops = {i.split(".")[0] for i in _imports(path)}
    assert "peft" not in tops or _name(path) == "llm.lora"
    assert "transformers" not in tops or _name(path) == "llm.hub"
    assert "ray" not in tops or _name(path) == "tune.search"
    assert "recbole.quick_start" not in _imports(path)
    if _name(path).startswith(("llm", "generator", "prompts", "errors", "files")):
        assert "recbole" not in tops
