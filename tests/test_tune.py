"""Laws of the search: by the valid rows alone; what fails is named and takes nothing along; nothing is run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import recbole_cora
from recbole_cora import cli
from recbole_cora.errors import SettingError
from recbole_cora.tune.space import Draw, read_space

pytest.importorskip("ray")

SPACE = """
learning_rate: {choice: [0.01, 1.0e+30]}
embedding_size: {choice: [8, 100000000000]}
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rate: 0.1", "expected one of choice"),
        ("learning_rate: {choise: [0.1]}", "did you mean 'choice'"),
        ("learning_rate: {choice: 0.1}", "expected a list"),
        ("learning_rate: {uniform: [2, 1]}", "low first"),
        ("learning_rate: {loguniform: [0, 1]}", "above 0"),
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
        (["--resume=nowhere"], "holds no search"),
    ],
)
def test_a_mistake_is_one_line(toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """And exit code 2."""
    assert cli.main(["tune", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_search_survives_its_trials_and_its_driver(toy: Path) -> None:
    """Of four trials one is sound, one's loss is no number, two want more memory than there is: each in the table with
    its reason. The driver is killed after the first has ended; gone on with, that one is not run again. The winner's
    test scores are those of a run with its settings; no trial has scored a test row."""
    Path("space.yaml").write_text(SPACE, encoding="utf-8")
    out = Path("found").resolve()
    command = [sys.executable, "-m", "recbole_cora.cli", "tune"]
    begin = ["--model=MF", "--dataset=toy", "--space=space.yaml", "--search=grid", "--num_samples=1", "--epochs=2",
             "--seed=3", f"--out={out}"]  # fmt: skip
    driver = subprocess.Popen([*command, *begin], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (ended := list(out.glob("trials/*/*/result.json"))) and driver.poll() is None:
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(ended) == 1
    stamp = ended[0].stat().st_mtime_ns
    done = subprocess.run([*command, f"--resume={out}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((out / "trials.json").read_text())
    by_settings = {(t["settings"]["learning_rate"], t["settings"]["embedding_size"]): t for t in told["trials"]}
    assert len(by_settings) == 4
    assert by_settings[0.01, 8]["status"] == "finished"
    assert "became nan" in by_settings[1e30, 8]["why"]
    assert by_settings[0.01, 10**11]["why"] == by_settings[1e30, 10**11]["why"] == "out of memory"
    assert ended[0].stat().st_mtime_ns == stamp and len(list(out.glob("trials/*/*/result.json"))) == 1
    assert "test" not in json.loads(ended[0].read_text())
    best = yaml.safe_load((out / "best.yaml").read_text())
    alone = recbole_cora.run(options={"show_progress": False}, config_files=[str(out / "best.yaml")])
    assert alone["test"] == told["best"]["test"] and best["learning_rate"] == 0.01
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG") and "out of memory" in done.stdout
