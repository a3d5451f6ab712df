"""Laws of the search: by the valid rows alone; what fails is named and takes nothing along; nothing is run twice."""

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
from recbole_cora.tune.search import _check_machines
from recbole_cora.tune.space import Draw, draw_all, read_space
from recbole_cora.tune.trials import DONE, note_end

pytest.importorskip("ray")

SPACE = """
learning_rate: {choice: [0.01, 1.0e+30]}
embedding_size: {choice: [8, 9, 10, 100000000000, 4611686018427387904]}
"""
#: More numbers than torch can count: it raises, and not for want of memory.
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
    """In one line, before anything is run."""
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=says):
        read_space(str(file))


def test_the_default_space_is_the_papers_two() -> None:
    """Learning rate and weight decay."""
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
        (["--resume=begun", "--learning_rate=1"], "leave out --learning_rate"),
        (["--resume=begun"], "is damaged"),
    ],
)
def test_a_mistake_is_one_line(toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """And exit code 2."""
    Path("begun").mkdir()
    Path("begun/tune.json").write_text("{}", encoding="utf-8")
    Path("mine.yaml").write_text("{model: MF, dataset: toy, epoks: 3}", encoding="utf-8")
    assert cli.main(["tune", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_draws_are_known_beforehand_and_none_is_made_twice() -> None:
    """A grid is all there are; random draws are as many as wanted, or as there are."""
    space = {"a": Draw("choice", [1, 2, 3]), "b": Draw("choice", [1, 2])}
    assert len(draw_all(space, "grid", 99, 0)) == 6
    for wanted, there in ((4, 4), (99, 6)):
        drawn = list(draw_all(space, "random", wanted, 0).values())
        assert len(drawn) == there and all(one not in drawn[:n] for n, one in enumerate(drawn))
    assert draw_all(space, "random", 4, 0) == draw_all(space, "random", 4, 0)


def test_many_draws_are_made_in_no_time() -> None:
    """The time is linear in their number, and they are those that a comparison with every draw before keeps."""
    space = {"a": Draw("uniform", [0.0, 1.0]), "b": Draw("choice", [[], ["score"], [1], [True]])}
    started = time.process_time()
    assert len(draw_all(space, "random", 2_000, 0)) == 2_000  # 8 s where each is compared with all before
    assert time.process_time() - started < 2
    space["a"] = Draw("randint", [0, 5])
    random, rows = np.random.default_rng(7), list[list[Any]]()
    while len(rows) < 12:
        a, b = int(random.integers(0, 5)), space["b"].values[int(random.integers(4))]
        if [a, b] not in rows:
            rows.append([a, b])
    assert [list(row.values()) for row in draw_all(space, "random", 12, 7).values()] == rows


def test_what_no_machine_has_is_refused() -> None:
    """Ray would wait for it in silence."""
    machines = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    _check_machines({"cpus": 4, "gpus": 0}, machines)
    with pytest.raises(SettingError, match="4 CPUs and 1 GPUs, and no machine has; the largest have 4 and 0"):
        _check_machines({"cpus": 4, "gpus": 1}, machines)


COMMAND = [sys.executable, "-m", "recbole_cora.cli", "tune"]


def begun(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """A search of its own process."""
    fixed = [
        "--data_path=dataset",
        "--dataset=toy",
        "--space=space.yaml",
        "--seed=3",
        "--show_progress=False",
        f"--out={out}",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *fixed, *arguments], **pipes)  # type: ignore[call-overload,no-any-return]


def notes(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in out.glob("trials/*/trial.json")]


def test_a_search_survives_its_trials_and_its_driver(toy: Path) -> None:
    """Of ten trials two are sound; one's process is killed once, another's each time; one raises; others' loss is no
    number, or they want more memory than there is: each in the table, with its reason. The driver is killed after the
    first has ended; gone on with, that one is not run again, and one that had failed is. The winner's test scores are
    those of a run with its settings, the killed trial's curve is that of one left alone, and no trial has scored a
    test row."""
    Path("space.yaml").write_text(SPACE, encoding="utf-8")
    out = Path("found").resolve()
    driver = begun(out, "--model=MF", "--search=grid", "--epochs=150", "--stopping_step=150")
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
        for note in notes(out):
            rate, size = note["settings"].values()
            hunted = rate == 0.01 and size in killed and len(killed[size]) < {9: 3, 10: 1}[size]
            if hunted and note["status"] == "running" and note["evaluations"] and note["process"] not in killed[size]:
                killed[size].add(note["process"])
                with suppress(ProcessLookupError):
                    os.kill(note["process"], signal.SIGKILL)
        time.sleep(0.02)
    said, complained = again.communicate()
    assert again.returncode == 0, complained[-2000:]
    told = json.loads((out / "trials.json").read_text())
    by_settings = {(t["settings"]["learning_rate"], t["settings"]["embedding_size"]): t for t in told["trials"]}
    assert len(by_settings) == 10
    assert by_settings[0.01, 8]["status"] == by_settings[0.01, 10]["status"] == "finished"
    assert by_settings[0.01, 9]["why"] == "its process died 3 times"
    assert "RuntimeError" in by_settings[0.01, UNCOUNTABLE]["why"]
    assert all("became nan" in by_settings[1e30, size]["why"] for size in (8, 9, 10))
    assert by_settings[0.01, 10**11]["why"] == by_settings[1e30, 10**11]["why"] == "out of memory"
    assert ended[0].stat().st_mtime_ns == stamp and "test" not in json.loads(ended[0].read_text())
    best = yaml.safe_load((out / "best.yaml").read_text())
    alone = recbole_cora.run(options={"show_progress": False}, config_files=[str(out / "best.yaml")])
    assert alone["test"] == told["best"]["test"] and best["learning_rate"] == 0.01
    options = {"show_progress": False, "embedding_size": 10}
    whole = recbole_cora.run(options=options, config_files=[str(out / "best.yaml")])
    assert by_settings[0.01, 10]["evaluations"] == [[epoch["epoch"], epoch["auc"]] for epoch in whole["curve"]]
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG") and "out of memory" in said


def test_a_search_that_learns_is_ended_by_ctrl_c_and_completed(toy: Path) -> None:
    """Stopping trials early by ASHA, on a model of RecBole's: as many as wanted then, none that is done run again."""
    pytest.importorskip("optuna")
    Path("space.yaml").write_text("learning_rate: {loguniform: [0.0001, 0.1]}", encoding="utf-8")
    out = Path("found").resolve()
    arguments = ["--model=BPR", "--search=optuna", "--scheduler=asha", "--num_samples=6", "--epochs=60"]
    driver = begun(out, *arguments, "--stopping_step=60")
    while driver.poll() is None and sum(note["status"] != "running" for note in notes(out)) < 2:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate()[1].splitlines()[-1]
    assert driver.returncode == 130 and "goes on" in said
    done = {note["name"]: note for note in notes(out) if note["status"] in DONE}
    assert len(done) >= 2
    again = subprocess.run([*COMMAND, f"--resume={out}", "--num_samples=7"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    found = {note["name"]: note for note in notes(out)}
    assert len(found) == 7 and {note["status"] for note in found.values()} <= set(DONE)
    assert all(found[name] == note for name, note in done.items())
    assert "stopped early" in again.stdout and "On the test rows, scored once" in again.stdout


def test_hyperopt_may_draw_the_same_twice(toy: Path) -> None:
    """Each draw is a trial, with a run of its own: of four draws of two values some are alike, and alike they end.
    While it searches, ray listens on this machine's loopback address alone."""
    pytest.importorskip("hyperopt")
    psutil = pytest.importorskip("psutil")
    Path("space.yaml").write_text("embedding_size: {choice: [8, 16]}", encoding="utf-8")
    out = Path("found").resolve()
    driver = begun(out, "--model=BPR", "--search=hyperopt", "--num_samples=4", "--epochs=2")
    listening: dict[str, set[str]] = {}
    while driver.poll() is None:
        with suppress(psutil.Error):
            for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
                with suppress(psutil.Error):
                    addresses = {each.laddr.ip for each in process.net_connections("inet") if each.status == "LISTEN"}
                    listening.setdefault(process.name(), set()).update(addresses)
        time.sleep(0.5)
    said = driver.communicate()[1]
    assert driver.returncode == 0, said[-2000:]
    assert {"gcs_server", "raylet"} <= listening.keys()
    assert {address.removeprefix("::ffff:") for each in listening.values() for address in each} == {"127.0.0.1"}
    found = json.loads((out / "trials.json").read_text())["trials"]
    assert [trial["status"] for trial in found] == ["finished"] * 4
    assert len(list(out.glob("trials/*/*/result.json"))) == 4
    sizes = [trial["settings"]["embedding_size"] for trial in found]
    assert set(sizes) <= {8, 16}
    for size in set(sizes):
        alike = [trial["evaluations"] for trial in found if trial["settings"]["embedding_size"] == size]
        assert alike == [alike[0]] * len(alike) and len(alike[0]) == 2
