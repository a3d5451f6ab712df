"""The package as a user meets it: its API, what it imports, its wheel."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import recbole_cora
from recbole_cora import quick_start

ROOT = Path(__file__).parent.parent


def test_the_api_is_listed_and_there() -> None:
    """Every public name is an attribute, and `dir` shows it."""
    for name in recbole_cora.__all__:
        assert getattr(recbole_cora, name) is not None and name in dir(recbole_cora)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        recbole_cora.nothing  # noqa: B018


def test_run_shows_its_real_signature() -> None:
    """`help(recbole_cora.run)` names the parameters of the function that it calls."""
    assert list(inspect.signature(recbole_cora.run).parameters) == list(inspect.signature(quick_start.run).parameters)


def imported(code: str, tmp_path: Path, *heavy: str) -> set[str]:
    """Return those of the modules `heavy` that are imported after `code` has run in a new process."""
    code += f"\nimport sys\nprint('HEAVY', *(name for name in {heavy!r} if name in sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    return set(process.stdout.rsplit("HEAVY", 1)[1].split())


@pytest.mark.slow
def test_a_cf_model_loads_no_llm(tmp_path: Path) -> None:
    """A run of MF imports none of transformers, peft and ray, as it needs no LLM."""
    code = (
        "from recbole_cora.cli import main\n"
        "assert main(['run', '--model=MF', '--dataset=ml-100k', '--max_steps=1', '--show_progress=False']) == 0"
    )
    assert not imported(code, tmp_path, "transformers", "peft", "ray")


@pytest.mark.slow
def test_the_generator_and_the_llm_need_no_recbole(tmp_path: Path) -> None:
    """Importing them imports neither RecBole nor Ray."""
    code = "from recbole_cora import CollaborativeWeightsGenerator, Conditioning, FrozenLLM, weight_targets"
    assert not imported(code, tmp_path, "recbole", "ray")


@pytest.mark.slow
def test_a_missing_recbole_is_one_line_with_the_command(tmp_path: Path) -> None:
    """On Python 3.12 and later pip cannot install RecBole beside this package by itself."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'recbole' else find(name, *more)\n"
    )
    command = [sys.executable, "-m", "recbole_cora.cli", "run", "--model=MF", "--dataset=ml-100k"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install --no-deps recbole==1.2.1" in done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the source distribution, built from this checkout."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_folder(built: Path, tmp_path: Path) -> None:
    """Outside the checkout, the wheel has all that a run needs: settings, templates and experiments."""
    (wheel,) = built.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = set(archive.namelist())
    assert {"recbole_cora/py.typed", "recbole_cora/properties/experiments/quick.yaml"} <= names
    command = [sys.executable, "-m", "recbole_cora.cli", "run", "--model=Averages", "--dataset=ml-100k"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    process = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True)
    assert Path(process.stdout.strip().splitlines()[-1]).name == "result.json"
    code = "import recbole_cora; print(recbole_cora.__file__)"
    place = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert place.stdout.startswith(str(site))


@pytest.mark.slow
def test_the_source_distribution_is_whole(built: Path) -> None:
    """It contains the package, its settings, tests and docs, and nothing that a run has written."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    assert {"recbole_cora/generator.py", "properties/overall.yaml", "tests/test_run.py", "docs/settings.md"} <= names
    assert not any(name.startswith(("saved/", "log/", ".cache/", ".venv")) for name in names)
