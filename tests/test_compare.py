"""Laws of compare: make missing runs, keep finished ones, survive failures, and report the runs' own numbers."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import recbole_cora
from recbole_cora import cli, metrics, repairs
from recbole_cora.compare.experiment import Experiment, System, built_in, make_experiment
from recbole_cora.compare.pages import with_tables
from recbole_cora.compare.rows import Row, rows_of
from recbole_cora.compare.runs import Run, _collect_signals
from recbole_cora.compare.table import write_report
from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.files import write_json
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig

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
    """Run the command and return its exit status."""
    try:
        return cli.main(["compare", "--out=out", "--show_progress=False", *arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.mark.slow
def test_what_is_missing_is_run_and_nothing_else(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed system appears with its reason in every later report and makes the exit status 1. A second call makes
    only the unfinished runs. The numbers are those of the runs."""
    pages = []

    def write(experiment: Experiment, runs: Sequence[Run], failures: Mapping[str, str], folder: Path) -> None:
        write_report(experiment, runs, failures, folder)
        pages.append(Path("out/report.md").read_text(encoding="utf-8"))

    monkeypatch.setattr("recbole_cora.compare.table.write_report", write)
    Path("mine.yaml").write_text(FILE, encoding="utf-8")
    assert compare("--experiment=mine.yaml", "--jobs=2") == 1
    assert "error: 2 of 6 runs failed; out/report.md gives the reasons" in capsys.readouterr().err
    assert len(pages) == 7  # after each run, and at the end
    for seed in (1, 2):
        reasons = [page.split(f"- never, ends, seed {seed}: ")[1].splitlines()[0] for page in pages]
        assert set(reasons[:-1]) <= {"not finished yet", reasons[-1]} and "became nan" in reasons[-1]
    reports_failure = ["became nan" in page for page in pages]
    assert reports_failure == sorted(reports_failure) and reports_failure[-2]  # not only in the last report
    results = sorted(Path("out/runs").glob("*/*/result.json"))
    assert len(results) == 4
    averages, mf, failed = json.loads(Path("out/report.json").read_text())["systems"]
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
    results[0].write_text("{", encoding="utf-8")  # damaged, so that the run counts as unfinished
    assert compare("--experiment=mine.yaml") == 1
    again = sorted(Path("out/runs").glob("*/*/result.json"))
    assert len(again) == 5 and sum(path in times and path.stat().st_mtime_ns == times[path] for path in again) == 3
    assert not json.loads(Path("out/report.json").read_text())["systems"][0]["missing"]
    assert capsys.readouterr().out.strip().endswith("report.json")


@pytest.mark.slow
def test_other_settings_or_other_data_are_other_runs(toy: Path) -> None:
    """Runs are identified by content: a changed setting or a changed rating makes a new run."""
    for changes in ([], ["--pseudo_rows=6"]):
        assert compare("--models=Averages", "--dataset=toy", *changes) == 0
    inter = toy / "toy.inter"
    inter.write_text(inter.read_text().replace("\t5\t", "\t4\t", 1))
    assert compare("--models=Averages", "--dataset=toy") == 0
    assert len(list(Path("out/runs").glob("*/*/result.json"))) == 3


def test_settings_go_to_the_systems_that_know_them() -> None:
    """`llm` goes to LLMs only. A key that no system has is an error that names the nearest key."""
    experiment = make_experiment(None, ["MF", "CoRA"], "ml-100k", [1], {"llm": "tiny"})
    mf, cora = (experiment.run_settings(system, 1) for system in experiment.systems)
    assert "llm" not in mf and cora["llm"] == "tiny"
    with pytest.raises(SettingError, match=r"unknown setting 'lllm'.*did you mean 'llm'"):
        make_experiment(None, ["MF", "CoRA"], "ml-100k", [1], {"lllm": "tiny"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("systems: 3", ["systems is 3; expected a list"]),
        ("systems: [MF]", ["expected a mapping"]),
        ("systems: [{model: MFF}]", ["did you mean 'MF'"]),
        ("sistems: []", ["did you mean 'systems'"]),
        ("dataset: toy\nsystems: [{model: MF}, {model: MF}]", ["two systems are named 'MF'"]),
        ("systems: [{model: MF, published: 5}]", ["'published' of system 'MF' is 5"]),
        ("systems: [{model: MF, published: {toy: 5}}]", ["'published' of system 'MF' has 5 for toy"]),
        ("systems: [{model: MF, published: {toy: [a, 1]}}]", ["'published' of system 'MF' has ['a', 1] for toy"]),
        ("systems: [{model: MF, name: [a]}]", ["a system's name is ['a']"]),
        ("systems: [{model: MF, seed: 4}]", ["'seed' cannot be set here"]),
        ("dataset: [toy]", ["dataset is ['toy']"]),
        ("settings: [epochs]", ["settings is ['epochs']"]),
        ("settings: {resume: auto}", ["'resume' cannot be set here"]),
        ("seeds: 3", ["seeds is 3"]),
        ("seeds: [a]", ["seeds is ['a']"]),
        ("seeds: [true]", ["seeds is [True]"]),
        ("seeds: [-1]", ["seeds is [-1]"]),
        ("seeds: []", ["seeds is []"]),
        ("seeds: [2, 2]", ["seed 2 is listed twice"]),
        (
            "{seeds: [1, a], settings: 5, dataset: 7, systems: [{model: MF, published: 5, epochs: 0}, {model: MFF}]}",
            ["seeds is", "settings is 5", "dataset is 7", "published", "epochs is 0", "unknown model 'MFF'"],
        ),
        (
            "{dataset: toy, settings: {learning_rate: fast, lllm: tiny}, systems: [{model: MF}, {model: LGCN}]}",
            ["unknown setting 'lllm' for all of MF, LGCN", "MF, LGCN: learning_rate is 'fast'"],
        ),
    ],
)
def test_a_wrong_experiment_says_all_that_is_wrong(tmp_path: Path, text: str, says: list[str]) -> None:
    """One line names the file and each mistake once."""
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as error:
        make_experiment(str(file), [], None, None, {})
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{file}: ")
    for problem in says:
        assert message.count(problem) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models=MF", "--dataset=toy", "--seeds=1,1"], ["seed 1 is listed twice"]),
        (["--models=MF", "--dataset=toy", "--seeds=[]"], ["seeds is []"]),
        (["--models=MF", "--dataset=toy", "--seeds=1,b", "--jobs=true"], ["seeds is [1, 'b']", "--jobs is True"]),
        (["--models=MF", "--dataset=toy", "--seed=3"], ["'seed' cannot be set here"]),
        (["--models=MF", "--dataset=nowhere"], ["nowhere holds no ratings"]),
        (["--models=MF", "--dataset=[3]", "--out=[a]"], ["--dataset is [3]", "--out is ['a']"]),
        (["--models=MF", "--dataset=toy", f"--out={'x' * 300}"], ["File name too long"]),
        (["--models=MF", "--dataset=toy", "--out=a_file"], ["cannot write in a_file"]),
        ([f"--experiment={'x' * 300}", "--jobs=0"], ["no experiment", "--jobs is 0"]),
    ],
)
def test_a_wrong_command_is_one_line_before_anything_is_run(
    toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: list[str]
) -> None:
    """The exit status is 2, the line names every mistake, and nothing is written."""
    Path("a_file").touch()
    before = sorted(Path().rglob("*"))
    assert cli.main(["compare", "--show_progress=False", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(problem in message for problem in says)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_stop_is_collected_and_an_ignored_one_is_not(number: signal.Signals) -> None:
    """SIGHUP counts once, since a closed terminal sends it twice. The earlier handlers are restored."""
    before = signal.getsignal(number)
    with _collect_signals() as numbers:
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert numbers == [number] * (1 if number == signal.SIGHUP else 2)
    assert signal.getsignal(number) == before
    try:
        signal.signal(number, signal.SIG_IGN)
        with _collect_signals() as numbers:
            signal.raise_signal(number)
        assert numbers == [] and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


LONG = ["--models=MF", "--dataset=toy", "--epochs=100000", "--stopping_step=100000", "--out=out"]


def log_in_progress() -> Path | None:
    """Return the log of a run that is training, that is, one that has saved weights."""
    return next((path.parent.parent / "log.txt" for path in Path("out/runs").glob("*/*/model.safetensors")), None)


@pytest.mark.slow
def test_a_driver_that_is_asked_to_stop_waits_for_its_runs(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run in progress saves its state before the driver ends, the waiting one does not start, and neither counts as
    failed."""

    def terminate_when_training() -> None:
        while log_in_progress() is None and not over.wait(0.05):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    thread = threading.Thread(target=terminate_when_training)
    thread.start()
    try:
        assert compare(*LONG, "--seeds=1,2") == 143
    finally:
        over.set()
        thread.join()
    log = log_in_progress()
    assert log is not None and "stopped: after" in log.read_text(encoding="utf-8")
    assert len(list(Path("out/runs").glob("*/*/training-*.safetensors"))) == 1
    assert len(list(Path("out/runs").glob("*/log.txt"))) == 1
    assert "0 of 2 runs are finished; run the same command again to resume" in capsys.readouterr().err
    assert "MF, seed 1: not finished yet" in Path("out/report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops the runs of a killed driver")
def test_no_run_outlives_a_driver_that_is_killed(toy: Path) -> None:
    """Its run saves its state and ends."""
    driver = subprocess.Popen([sys.executable, "-m", "recbole_cora.cli", "compare", *LONG, "--data_path=dataset"])
    try:
        while (log := log_in_progress()) is None and driver.poll() is None:
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert log is not None
    deadline = time.monotonic() + 60
    while "stopped: after" not in (text := log.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "stopped: after" in text and "state saved" in text


def test_an_unknown_experiment_names_the_nearest() -> None:
    """The error suggests the built-in experiment with the nearest name."""
    with pytest.raises(SettingError, match="did you mean 'table3'"):
        make_experiment("table33", [], None, None, {})


@pytest.mark.parametrize("name", built_in())
def test_ready_experiments_are_ready(name: str) -> None:
    """Every system of a built-in experiment accepts its settings."""
    experiment = make_experiment(name, [], None, None, {})
    for system in experiment.systems:
        experiment.run_settings(system, experiment.seeds[0])
    assert len(experiment.systems) > 3


def test_a_row_without_a_run_is_empty() -> None:
    """A report can be written before any run has finished."""
    experiment = make_experiment(None, ["MF"], "ml-100k", [1], {})
    (row,) = rows_of(experiment, [], {})
    assert row.scores["test"]["auc"] is None and row.seeds == [] and row.cost is None


@pytest.mark.parametrize(
    ("values", "bold"),
    [
        ({"A": [0.70, 0.72], "B": [0.71, 0.71], "C": [0.60, 0.80]}, {"A", "B"}),  # both show .7100; C shows .7000
        ({"A": [0.71001, 0.71003], "B": [0.71004, 0.71004]}, {"A", "B"}),  # they differ only beyond the decimals
        ({"A": [0.9, 0.9], "B": [1.0, 1.0], "C": []}, {"B"}),
    ],
)
def test_bold_is_the_highest_mean_whatever_the_spread(
    tmp_path: Path, values: dict[str, list[float]], bold: set[str]
) -> None:
    """All rows that show the highest mean are bold, and no others; a row without a value never is."""
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


def test_values_are_beside_their_seeds(tmp_path: Path) -> None:
    """Seeds may come in any order: `values` in the report are in the order of `seeds`."""
    system = System("A", "MF", {}, {})
    runs = [Run(system, seed, tmp_path / f"A-{seed}") for seed in (7, 2)]
    for run in runs:
        write_json(run.folder / "MF/result.json", result_of(run.seed / 10))
    experiment = Experiment("mine", "toy", (7, 2), {}, (system,))
    write_report(experiment, runs, {}, tmp_path)
    entry = json.loads((tmp_path / "report.json").read_text())["systems"][0]
    assert entry["seeds"] == [7, 2] and entry["test"]["auc"]["values"] == [0.7, 0.2]
    (row,) = rows_of(experiment, runs, {})
    assert Row.from_json(entry) == row


def test_a_page_gets_the_tables_that_its_comments_name(tmp_path: Path) -> None:
    """Only the lines between the comments change; an unknown column or a missing report is one error."""
    run = Run(System("A", "MF", {}, {}), 1, tmp_path / "A")
    write_json(run.folder / "MF/result.json", result_of(0.7) | {"commit": "abc", "machine": "a CPU, 2 cores"})
    write_report(Experiment("mine", "toy", (1, 2), {}, (run.system,)), [run], {}, tmp_path / "results/mine")
    page = tmp_path / "page.md"
    text = "before\n<!-- table results/mine: AUC, seconds -->\nold\n<!-- /table -->\nafter\n"
    page.write_text(text)
    filled = with_tables(page, tmp_path)
    assert filled.startswith("before\n<!-- table") and filled.endswith("<!-- /table -->\nafter\n")
    assert (
        "| A | **.7000** | 1 |" in filled and "old" not in filled and "Commit: abc. Machine: a CPU, 2 cores" in filled
    )
    page.write_text(filled)
    assert with_tables(page, tmp_path) == filled
    for broken, says in ((text.replace("AUC", "ACU"), "no column 'ACU'"), (text.replace("mine", "none"), "is missing")):
        page.write_text(broken)
        with pytest.raises(SettingError, match=says):
            with_tables(page, tmp_path)


def result_of(value: float) -> dict[str, Any]:
    """Return a run's result with this AUC and UAUC in every split."""
    scores = {"auc": value, "uauc": value, "logloss": 0.5}
    splits = ("test", "test_warm", "test_cold", "test_warm_at_least_3", "test_cold_at_least_3", "valid")
    return {
        **dict.fromkeys(splits, scores), "trainable_parameters": 1, "llm": None, "seconds": {"train": 1.0},
        "rows": {"train": 3, "valid": 2, "test": 1}, "uauc_users": {"test": 1}, "versions": {},
    }  # fmt: skip


def first_table(folder: Path) -> list[str]:
    """Return the rows of report.md's first table."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    return page.split("|---|", 1)[1].split("\n\n", 1)[0].splitlines()[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["TALLRec", "Prompt4NR", "PersonPrompt", "CoLLM", "BinLLM", "ICL", "LateFusion", "HistoryFeatures"],
)
def test_every_baseline_runs_by_one_command(toy: Path, model: str) -> None:
    """Earlier stages run too. With the run as a checkpoint, the scores are the same."""
    options = known_options(model, SMALL)
    result = recbole_cora.run(model=model, dataset="toy", options=options)
    again = recbole_cora.run(model=model, dataset="toy", options={**options, "checkpoint": result["folder"]})
    assert again["test"] == result["test"]


def test_stage_two_starts_from_a_saved_stage_one(toy: Path) -> None:
    """CoLLM takes the LoRA of a TALLRec run, whatever its settings, and trains none of its own."""
    first = recbole_cora.run(
        model="TALLRec", dataset="toy", options={**known_options("TALLRec", SMALL), "lora_rank": 3}
    )
    collm = {key: value for key, value in known_options("CoLLM", SMALL).items() if key != "lora_config"}
    more = {"lora_checkpoint": first["folder"], "lora_rank": 3}
    recbole_cora.run(model="CoLLM", dataset="toy", options={**collm, **more})
    assert not Path(".cache/lora").exists()
    with pytest.raises(CheckpointError, match=r"lora_rank=3 \(here 4\)"):
        recbole_cora.run(model="CoLLM", dataset="toy", options={**collm, **more, "lora_rank": 4})


def known_options(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that a model has."""
    settings = CoraConfig(model_class(model), "toy").allowed_keys
    return {key: value for key, value in options.items() if key in settings}
