"""Laws of compare: it runs what is missing, keeps what is finished, survives what fails, and tells the truth."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

import recbole_cora
from recbole_cora import cli, metrics, repairs
from recbole_cora.compare.experiment import Experiment, System, built_in, make_experiment
from recbole_cora.compare.runs import Run
from recbole_cora.compare.table import rows_of, write_report
from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.files import write_json
from recbole_cora.registry import model_class
from recbole_cora.settings import CoraConfig

FILE = """
dataset: toy
seeds: [1, 2]
settings: {epochs: 2, embedding_size: 8}
systems:
  - {name: Averages, model: Averages, published: {toy: [0.61, 0.52], other: [0.1, 0.2]}}
  - {name: MF, model: MF}
  - {name: "never, ends", model: MF, learning_rate: 1.0e+30}
"""


SMALL: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "steps_per_epoch": 2, "epochs": 1, "seed": 3,
    "cf_config": {"epochs": 1}, "cf_folds": 2, "codes_config": {"epochs": 1}, "show_progress": False,
    "lora_config": {"epochs": 1, "steps_per_epoch": 1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _ready() -> None:
    repairs.apply_all()
    metrics.register()


def compare(*arguments: str) -> int:
    return cli.main(["compare", "--out=out", "--show_progress=False", *arguments])


def test_what_is_missing_is_run_and_nothing_else(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed system is in the report with its reason; a second call runs only what is not finished; the numbers are
    those of the runs."""
    Path("mine.yaml").write_text(FILE, encoding="utf-8")
    assert compare("--experiment=mine.yaml", "--jobs=2") == 0
    results = sorted(Path("out/runs").glob("*/*/result.json"))
    assert len(results) == 4
    told = json.loads(Path("out/report.json").read_text())
    averages, mf, failed = told["systems"]
    assert failed["test"]["auc"] is None and set(failed["failed"]) == {"1", "2"}
    assert "became nan" in failed["failed"]["1"]
    values = [json.loads(path.read_text())["test"]["auc"] for path in results if "MF" in str(path)]
    assert sorted(mf["test"]["auc"]["values"]) == sorted(values)
    assert mf["test"]["auc"]["mean"] == pytest.approx(statistics.fmean(values))
    assert mf["test"]["auc"]["spread"] == pytest.approx(statistics.stdev(values))
    assert averages["published"] == {"auc": 0.61, "uauc": 0.52}
    page = Path("out/report.md").read_text()
    assert f"{statistics.fmean(values):.4f}".removeprefix("0") in page and "- never, ends, seed 1: " in page
    with Path("out/report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["system"] for line in lines} == {"Averages", "MF"}

    times = {path: path.stat().st_mtime_ns for path in results}
    results[0].unlink()  # as if it had been killed before its end
    assert compare("--experiment=mine.yaml") == 0
    again = sorted(Path("out/runs").glob("*/*/result.json"))
    assert len(again) == 4 and sum(path in times and path.stat().st_mtime_ns == times[path] for path in again) == 3
    assert capsys.readouterr().out.strip().endswith("report.json")


def test_other_settings_or_other_data_are_other_runs(toy: Path) -> None:
    """What is kept is kept by content: a changed setting or a changed rating is run anew."""
    for changes in ([], ["--pseudo_rows=6"]):
        assert compare("--models=Averages", "--dataset=toy", *changes) == 0
    inter = toy / "toy.inter"
    inter.write_text(inter.read_text().replace("\t5\t", "\t4\t", 1))
    assert compare("--models=Averages", "--dataset=toy") == 0
    assert len(list(Path("out/runs").glob("*/*/result.json"))) == 3


def test_settings_go_to_the_systems_that_know_them() -> None:
    """`llm` is for LLMs; a key that no system knows is an error that names the nearest."""
    experiment = make_experiment(None, ["MF", "CoRA"], "ml-100k", [1], {"llm": "tiny"})
    mf, cora = (experiment.config(system, 1) for system in experiment.systems)
    assert "llm" not in mf.external_config_dict and cora["llm"] == "tiny"
    with pytest.raises(SettingError, match=r"unknown setting 'lllm'.*did you mean 'llm'"):
        make_experiment(None, ["MF", "CoRA"], "ml-100k", [1], {"lllm": "tiny"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("systems: 3", "are lists"),
        ("systems: [MF]", "expected a mapping"),
        ("systems: [{model: MFF}]", "did you mean 'MF'"),
        ("sistems: []", "did you mean 'systems'"),
        ("dataset: toy\nsystems: [{model: MF}, {model: MF}]", "two systems are named 'MF'"),
    ],
)
def test_a_wrong_experiment_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    """In one line."""
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=says):
        make_experiment(str(file), [], None, None, {})


def test_an_unknown_experiment_names_the_nearest() -> None:
    """And what there is."""
    with pytest.raises(SettingError, match="did you mean 'table3'"):
        make_experiment("table33", [], None, None, {})


@pytest.mark.parametrize("name", built_in())
def test_ready_experiments_are_ready(name: str) -> None:
    """Every system of them takes its settings."""
    experiment = make_experiment(name, [], None, None, {})
    for system in experiment.systems:
        experiment.config(system, experiment.seeds[0])
    assert len(experiment.systems) > 3


def test_a_row_without_a_run_is_empty() -> None:
    """A report can be written at any time."""
    experiment = make_experiment(None, ["MF"], "ml-100k", [1], {})
    (row,) = rows_of(experiment, [], {})
    assert row["test"]["auc"] is None and row["seeds"] == []


@pytest.mark.parametrize(
    ("values", "bold"),
    [
        ({"A": [0.70, 0.72], "B": [0.71, 0.71], "C": [0.60, 0.80]}, {"A", "B"}),  # one mean shown; C's is .7000
        ({"A": [0.71001, 0.71003], "B": [0.71004, 0.71004]}, {"A", "B"}),  # they differ where none is shown
        ({"A": [0.9, 0.9], "B": [1.0, 1.0], "C": []}, {"B"}),
    ],
)
def test_bold_is_the_highest_mean_whatever_the_spread(
    tmp_path: Path, values: dict[str, list[float]], bold: set[str]
) -> None:
    """Every row that shows the highest mean is bold, and no other; a row without a value never is."""
    systems = tuple(System(name, "MF", {}, {}) for name in values)
    runs = []
    for system in systems:
        for seed, value in enumerate(values[system.name]):
            runs.append(Run(system, seed, tmp_path / f"{system.name}-{seed}"))
            write_json(runs[-1].folder / "MF/result.json", result_of(value))
    write_report(Experiment("mine", "toy", (0, 1), {}, systems), runs, {}, tmp_path)
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:3] for line in first_table(tmp_path)}
    assert cells.keys() == values.keys()
    assert {name for name, (auc, _) in cells.items() if auc.startswith("**")} == bold
    assert {name for name, (_, uauc) in cells.items() if uauc.startswith("**")} == bold


def result_of(value: float) -> dict[str, Any]:
    """A run's result with this AUC and UAUC in every split."""
    scores = {"auc": value, "uauc": value, "logloss": 0.5}
    splits = ("test", "test_warm", "test_cold", "test_warm_at_least_3", "test_cold_at_least_3", "valid")
    return {
        **dict.fromkeys(splits, scores), "trainable_parameters": 1, "llm": None, "seconds": {"train": 1.0},
        "rows": {"train": 3, "valid": 2, "test": 1}, "uauc_users": {"test": 1}, "versions": {},
    }  # fmt: skip


def first_table(folder: Path) -> list[str]:
    """The rows of report.md's first table."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    return page.split("|---|", 1)[1].split("\n\n", 1)[0].splitlines()[1:]


@pytest.mark.parametrize("model", ["TALLRec", "Prompt4NR", "PersonPrompt", "CoLLM", "BinLLM", "ICL", "HistoryFeatures"])
def test_every_baseline_runs_by_one_command(toy: Path, model: str) -> None:
    """Its earlier stages too; and it is scored alike when its run is given as a checkpoint."""
    options = only_known(model, SMALL)
    result = recbole_cora.run(model=model, dataset="toy", options=options)
    again = recbole_cora.run(model=model, dataset="toy", options={**options, "checkpoint": result["folder"]})
    assert again["test"] == result["test"]


def test_stage_two_starts_from_a_saved_stage_one(toy: Path) -> None:
    """CoLLM takes the LoRA of a TALLRec run, of any settings, and trains none."""
    first = recbole_cora.run(model="TALLRec", dataset="toy", options={**only_known("TALLRec", SMALL), "lora_rank": 3})
    more = {"lora_checkpoint": first["folder"], "lora_rank": 3}
    recbole_cora.run(model="CoLLM", dataset="toy", options={**only_known("CoLLM", SMALL), **more})
    assert not Path(".cache/lora").exists()
    with pytest.raises(CheckpointError, match="shape"):
        recbole_cora.run(model="CoLLM", dataset="toy", options={**only_known("CoLLM", SMALL), **more, "lora_rank": 4})


def only_known(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Of the options, those that a model knows."""
    known = CoraConfig(model_class(model), "toy").known
    return {key: value for key, value in options.items() if key in known}
