"""Laws of the search: it uses only the valid rows, a failing trial does not affect others, and no trial runs twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import recbole_cora
from recbole_cora import cli
from recbole_cora.errors import SettingError
from recbole_cora.settings.commands import TuneOptions
from recbole_cora.tune.command import _folder, _new_search
from recbole_cora.tune.records import Resources
from recbole_cora.tune.search import _check_machines
from recbole_cora.tune.space import Draw, draw_all, read_space
from recbole_cora.tune.trials import DONE, note_end

pytest.importorskip("ray")

SPACE = """
learning_rate: {choice: [0.01, 1.0e+30]}
embedding_size: {choice: [8, 9, 10, 100000000000, 4611686018427387904]}
"""
#: A size beyond what torch can count, which raises an error that is not about memory.
UNCOUNTABLE = 2**62


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rate: 0.1", "expected one of choice"),
        ("learning_rate: {choise: [0.1]}", "did you mean 'choice'"),
        ("learning_rate: {choice: 0.1}", "expected a list"),
        ("learning_rate: {uniform: [2, 1]}", "low first"),
        ("learning_rate: {loguniform: [0, 1]}", "above 0"),
        ("learning_rate: {uniform: [0, .inf]}", "low first"),
        ("learning_rate: {uniform: [.nan, 1]}", "low first"),
        ("embedding_size: {randint: [0.5, 8]}", "in whole numbers"),
        ("{}", "names no setting"),
    ],
)
def test_a_wrong_space_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    """The error names the mistake in one line, before anything runs."""
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=says):
        read_space(str(file))


def test_the_default_space_is_the_papers_two() -> None:
    """The default space has the learning rate and the weight decay."""
    assert set(read_space(None)) == {"learning_rate", "weight_decay"}
    assert all(isinstance(draw, Draw) and draw.kind == "choice" for draw in read_space(None).values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model=MF"], "needs --model= and --dataset="),
        (["--model=MF", "--dataset=toy", "--serch=grid"], "did you mean"),
        (["--model=MF", "--dataset=toy", "--jobs=0"], "at least 1"),
        (["--model=MF", "--dataset=toy", "--jobs=true"], "at least 1"),
        (["--model=MF", "--dataset=toy", "--gpus=all"], "expected a number"),
        (["--model=MF", "--dataset=toy", "--gpus=.nan"], "expected a number"),
        (["--model=MF", "--dataset=toy", "--out=[a]"], "--out is ['a']"),
        (["--model=MF", "--dataset=toy", f"--out={'x' * 300}"], "File name too long"),
        (["--model=MF", "--dataset=toy", "--out=mine.yaml"], "cannot write in"),
        ([f"--resume={'x' * 300}"], "holds no search"),
        (["--resume=true"], "--resume is True"),
        (["--config_files=mine.yaml"], "unknown setting 'epoks' for --model=MF; did you mean 'epochs'?"),
        (["--resume=nowhere"], "holds no search"),
        (["--resume=damaged", "--learning_rate=1"], "leave out --learning_rate"),
        (["--resume=damaged"], "is damaged"),
    ],
)
def test_a_mistake_is_one_line(toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """The exit code is 2."""
    Path("damaged").mkdir()
    Path("damaged/tune.json").write_text("{}", encoding="utf-8")
    Path("mine.yaml").write_text("{model: MF, dataset: toy, epoks: 3}", encoding="utf-8")
    assert cli.main(["tune", *arguments]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


def test_a_search_is_named_after_what_it_searches(toy: Path) -> None:
    """Also if model and dataset come from a file."""
    Path("mine.yaml").write_text("{model: MF, dataset: toy}", encoding="utf-8")
    options = TuneOptions(config_files=["mine.yaml"])
    assert _folder(options, _new_search(options, {})).name.startswith("MF-toy-")


def test_draws_are_known_beforehand_and_none_is_made_twice() -> None:
    """A grid has every combination. Random draws are as many as wanted, or all there are."""
    space = {"a": Draw("choice", [1, 2, 3]), "b": Draw("choice", [1, 2])}
    assert len(draw_all(space, "grid", 99, 0)) == 6
    for num_samples, count in ((4, 4), (99, 6)):
        draws = list(draw_all(space, "random", num_samples, 0).values())
        assert len(draws) == count and all(draw not in draws[:n] for n, draw in enumerate(draws))
    assert draw_all(space, "random", 4, 0) == draw_all(space, "random", 4, 0)


def test_many_draws_are_made_in_no_time() -> None:
    """The time is linear in their number, and the draws are those of comparing each with all earlier ones."""
    space = {"a": Draw("uniform", [0.0, 1.0]), "b": Draw("choice", [[], ["score"], [1], [True]])}
    started = time.process_time()
    assert len(draw_all(space, "random", 2_000, 0)) == 2_000  # comparing each with all earlier ones would take 8 s
    assert time.process_time() - started < 2
    space["a"] = Draw("randint", [0, 5])
    random, rows = np.random.default_rng(7), list[list[Any]]()
    while len(rows) < 12:
        a, b = int(random.integers(0, 5)), space["b"].values[int(random.integers(4))]
        if [a, b] not in rows:
            rows.append([a, b])
    assert [list(row.values()) for row in draw_all(space, "random", 12, 7).values()] == rows


def test_what_no_machine_has_is_refused() -> None:
    """Ray would silently wait forever."""
    machines = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    _check_machines(Resources(4, 0), machines)
    with pytest.raises(SettingError, match="4 CPUs and 1 GPUs, but no machine has them; the largest have 4 and 0"):
        _check_machines(Resources(4, 1), machines)


COMMAND = [sys.executable, "-m", "recbole_cora.cli", "tune"]


def start_search(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a search in a process of its own."""
    options = [
        "--data_path=dataset",
        "--dataset=toy",
        "--space=space.yaml",
        "--seed=3",
        "--show_progress=False",
        f"--out={out}",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *options, *arguments], **pipes)  # type: ignore[call-overload,no-any-return]


def records(out: Path) -> list[dict[str, Any]]:
    """Return the content of every trial.json."""
    return [json.loads(path.read_text()) for path in out.glob("trials/*/trial.json")]


@pytest.mark.slow
def test_a_search_survives_its_trials_and_its_driver(toy: Path) -> None:
    """Ten trials: two finish, one of them although its process is killed once. One's process is killed every time, one
    raises, some diverge, and some need more memory than the machine has; the table gives each reason.

    The driver is killed after the first trial has ended. The resumed search does not run that trial again, but it
    retries a failed one. The best trial's test scores are those of a run with its settings. The curve of the trial that
    was killed once matches an uninterrupted run. No trial has scored a test row."""
    Path("space.yaml").write_text(SPACE, encoding="utf-8")
    out = Path("search").resolve()
    driver = start_search(out, "--model=MF", "--search=grid", "--epochs=150", "--stopping_step=150")
    while not (ended := list(out.glob("trials/*/*/result.json"))) and driver.poll() is None:
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    assert len(ended) == 1
    stamp = ended[0].stat().st_mtime_ns
    note_end(out, "trial-003", {"learning_rate": 0.01, "embedding_size": 10}, "failed", "its machine went away")
    again = subprocess.Popen([*COMMAND, f"--resume={out}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: dict[int, set[int]] = {9: set(), 10: set()}
    while again.poll() is None:
        for record in records(out):
            rate, size = record["settings"].values()
            is_target = rate == 0.01 and size in killed and len(killed[size]) < {9: 3, 10: 1}[size]
            training = record["status"] == "running" and record["evaluations"]
            if is_target and training and record["process"] not in killed[size]:
                killed[size].add(record["process"])
                with suppress(ProcessLookupError):
                    os.kill(record["process"], signal.SIGKILL)
        time.sleep(0.02)
    output, errors = again.communicate()
    assert again.returncode == 0, errors[-2000:]
    report = json.loads((out / "trials.json").read_text())
    by_settings = {(t["settings"]["learning_rate"], t["settings"]["embedding_size"]): t for t in report["trials"]}
    assert len(by_settings) == 10
    assert by_settings[0.01, 8]["status"] == by_settings[0.01, 10]["status"] == "finished"
    assert by_settings[0.01, 9]["why"] == "its process died 3 times"
    assert "RuntimeError" in by_settings[0.01, UNCOUNTABLE]["why"]
    assert all("became nan" in by_settings[1e30, size]["why"] for size in (8, 9, 10))
    assert by_settings[0.01, 10**11]["why"] == by_settings[1e30, 10**11]["why"] == "out of memory"
    assert ended[0].stat().st_mtime_ns == stamp and "test" not in json.loads(ended[0].read_text())
    best = yaml.safe_load((out / "best.yaml").read_text())
    alone = recbole_cora.run(options={"show_progress": False}, config_files=[str(out / "best.yaml")])
    assert alone["test"] == report["best"]["test"] and best["learning_rate"] == 0.01
    options = {"show_progress": False, "embedding_size": 10}
    whole = recbole_cora.run(options=options, config_files=[str(out / "best.yaml")])
    assert by_settings[0.01, 10]["evaluations"] == [[epoch["epoch"], epoch["auc"]] for epoch in whole["curve"]]
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG") and "out of memory" in output


@pytest.mark.slow
def test_a_search_that_learns_is_ended_by_ctrl_c_and_completed(toy: Path) -> None:
    """ASHA stops trials of a RecBole model early. The resumed search reaches the wanted number and repeats no trial."""
    pytest.importorskip("optuna")
    Path("space.yaml").write_text("learning_rate: {loguniform: [0.0001, 0.1]}", encoding="utf-8")
    out = Path("search").resolve()
    arguments = ["--model=BPR", "--search=optuna", "--scheduler=asha", "--num_samples=6", "--epochs=60"]
    driver = start_search(out, *arguments, "--stopping_step=60")
    while driver.poll() is None and sum(record["status"] != "running" for record in records(out)) < 2:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    errors = driver.communicate()[1]
    assert driver.returncode == 130, errors[-4000:]
    assert "resume the search with tune --resume=" in errors.splitlines()[-1]
    ended_trials = {record["name"]: record for record in records(out) if record["status"] in DONE}
    assert len(ended_trials) >= 2
    again = subprocess.run([*COMMAND, f"--resume={out}", "--num_samples=7"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    by_name = {record["name"]: record for record in records(out)}
    assert len(by_name) == 7 and {record["status"] for record in by_name.values()} <= set(DONE)
    assert all(by_name[name] == record for name, record in ended_trials.items())
    assert "stopped early" in again.stdout and "On the test rows, scored once" in again.stdout


@pytest.mark.slow
def test_hyperopt_may_draw_the_same_twice(toy: Path) -> None:
    """Each draw is a trial with a run of its own. Four draws of two values must repeat some, and equal draws
    have equal curves. During the search, ray listens only on the loopback address."""
    pytest.importorskip("hyperopt")
    psutil = pytest.importorskip("psutil")
    Path("space.yaml").write_text("embedding_size: {choice: [8, 16]}", encoding="utf-8")
    out = Path("search").resolve()
    driver = start_search(out, "--model=BPR", "--search=hyperopt", "--num_samples=4", "--epochs=2")
    listening: dict[str, set[str]] = {}
    while driver.poll() is None:
        with suppress(psutil.Error):
            for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
                with suppress(psutil.Error):
                    addresses = {each.laddr.ip for each in process.net_connections("inet") if each.status == "LISTEN"}
                    listening.setdefault(process.name(), set()).update(addresses)
        time.sleep(0.5)
    errors = driver.communicate()[1]
    assert driver.returncode == 0, errors[-2000:]
    assert {"gcs_server", "raylet"} <= listening.keys()
    assert {address.removeprefix("::ffff:") for each in listening.values() for address in each} == {"127.0.0.1"}
    trials = json.loads((out / "trials.json").read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 4
    assert len(list(out.glob("trials/*/*/result.json"))) == 4
    sizes = [trial["settings"]["embedding_size"] for trial in trials]
    assert set(sizes) <= {8, 16}
    for size in set(sizes):
        curves = [trial["evaluations"] for trial in trials if trial["settings"]["embedding_size"] == size]
        assert curves == [curves[0]] * len(curves) and len(curves[0]) == 2
