"""README and docs are true: their commands run, their links lead somewhere, their prose stays short."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from recbole_cora.cli import main
from recbole_cora.compare.pages import pages, with_tables
from recbole_cora.settings.models import MODELS
from tests.conftest import write_toy

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A fenced block of commands, and the comment before it that says why it is not run here.
BLOCK = re.compile(r"(?:<!-- (?P<why>(?:needs|takes|test) [^\n]*) -->\n)?```bash\n(?P<text>.*?)```", re.DOTALL)
#: Options that keep a documented command short: training steps, and the tiny LLM's.
BOUNDS, TINY_BOUNDS = (
    ["--max_steps=1", "--show_progress=False"],
    ["--tiny_steps=2", "--tiny_hidden=32", "--cf_config={epochs: 1}"],
)
#: Commands that a test cannot run inside its own environment; `.ci/run` runs them.
INSTALLING = ("python -m venv", ".venv/bin/python -m pip", "pip install")


class Command(NamedTuple):
    page: str
    line: str


def commands(page: Path) -> list[Command]:
    lines = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["why"] is None:
            steps = (step.strip() for line in block["text"].splitlines() for step in line.split("&&"))
            lines += [Command(page.name, step) for step in steps if step and not step.startswith(INSTALLING)]
    return lines


COMMANDS = [command for page in PAGES for command in commands(page)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every documented command can run: small datasets and the documented files."""
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "dataset", "toy")
    write_toy(tmp_path / "dataset", "mine")
    (tmp_path / "mine.yaml").write_text("model: CoRA\ndataset: toy\n")
    ratings = "user,item,rating,time\n" + "".join(f"u{n % 9},m{n % 14},{1 + n % 5},{n}\n" for n in range(200))
    (tmp_path / "ratings.csv").write_text(ratings)
    plays = "user,item,time\n" + "".join(f"u{n % 9},m{(n % 9 + n // 9 * 2) % 14},{n}\n" for n in range(200))
    (tmp_path / "plays.csv").write_text(plays)
    (tmp_path / "movies.csv").write_text("item,title\n" + "".join(f"m{n},Film {n}\n" for n in range(14)))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.line[:60]}")
def test_a_documented_command_runs(workplace: Path, command: Command) -> None:
    """The exit status is 0. A small dataset replaces ml-100k, and training is cut to one step."""
    program, *arguments = shlex.split(command.line.replace("ml-100k", "toy"), comments=True)
    if program.endswith("python"):
        assert arguments.pop(0) == "run_recbole_cora.py"
        arguments.insert(0, "run")
    else:
        assert program == "recbole-cora"
    if "--name=mine" in arguments:
        shutil.rmtree(workplace / "dataset" / "mine")
    if arguments[0] == "run" and not {"--help", "--models"} & set(arguments):
        model = next((a.removeprefix("--model=") for a in arguments if a.startswith("--model=")), "CoRA")
        reads_prompts = model in MODELS and "llm" in MODELS[model].needs
        arguments += BOUNDS + (TINY_BOUNDS if reads_prompts else [])
    assert main(arguments) == 0


def test_documented_python_runs(workplace: Path) -> None:
    """Each block of Python in the docs runs; test_docs.py runs those of docs/adding-a-model.md."""
    for page in PAGES:
        if page.name == "adding-a-model.md":
            continue
        for text in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            bounded = text.replace("ml-100k", "toy").replace(
                '{"seed": 1}',
                '{"seed": 1, "max_steps": 1, "tiny_steps": 2, "tiny_hidden": 32, "cf_config": {"epochs": 1}}',
            )
            exec(compile(bounded, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_there(page: Path) -> None:
    """The target of each link exists, relative to the link's page."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_is_one_page() -> None:
    """The README has at most 1,500 words; longer text goes to docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_tables_are_those_of_the_committed_results() -> None:
    """`python -m recbole_cora.compare.pages` would change no page."""
    for page in pages(ROOT):
        assert with_tables(page, ROOT) == page.read_text(encoding="utf-8"), page.name
