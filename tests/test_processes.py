"""Laws of several processes: together they give the results of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

#: Each epoch is one step, so that the curve has the loss of each step. No dropout, whose random numbers differ between
#: processes.
COMMON: dict[str, Any] = {
    "steps_per_epoch": 1, "epochs": 12, "stopping_step": 99, "seed": 3, "learning_rate": 0.01, "save_scores": True,
    "show_progress": False,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "MF": {**COMMON, "train_batch_size": 25},
    "CoRA": {
        **COMMON, "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "hidden": 32, "feed_forward": 32,
        "rank": 4, "warmup_steps": 2, "cf_config": {"epochs": 2}, "cf_folds": 2, "generator_dropout": 0.0,
        "cf_dropout": 0.0, "train_batch_size": 9, "references": False,
    },
}  # fmt: skip
pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
#: A script that runs `recbole-cora` and writes the number of rows that this process's CoRA has scored to `rows.<rank>`.
COUNTED = """
import sys
from pathlib import Path
from recbole_cora import processes
from recbole_cora.cli import main
from recbole_cora.models.cora import CoRA

rows, predict = [], CoRA.predict

def counted(self, interaction):
    rows.append(len(interaction))
    return predict(self, interaction)

CoRA.predict = counted
status = main(sys.argv[1:])
Path(f"rows.{processes.rank()}").write_text(str(sum(rows)))
sys.exit(status)
"""
#: `--multi_gpu` on a CPU too: with it `accelerate launch` starts the processes itself, otherwise it uses mpirun.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"]


def arguments(model: str, **changes: Any) -> list[str]:
    """Return the command line of a run, after the interpreter and the launcher."""
    options = [f"--{key}={json.dumps(value)}" for key, value in {**MODELS[model], **changes}.items()]
    return ["-m", "recbole_cora.cli", "run", f"--model={model}", "--dataset=toy", *options]


def launch(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a process of this interpreter, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def wait_for_result(folder: str, *processes: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the processes of one run and return its result; `folder` must contain a single run."""
    for process in processes:
        stderr = process.communicate(timeout=120)[1]
        assert process.returncode == 0, stderr[-3000:]
    (path,) = Path(folder).glob("*/result.json")
    return {**json.loads(path.read_text()), "folder": path.parent}


def run(model: str, folder: str, launcher: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """Run a model to its end and return its result."""
    command = [*(launcher or []), *arguments(model, checkpoint_dir=folder, **changes)]
    return wait_for_result(folder, launch(command))


def same_scores(one: dict[str, Any], other: dict[str, Any], within: float) -> None:
    """Check that two results have the same rows in order, nearly the same scores, and the same AUC and UAUC."""
    for split in ("valid", "test"):
        rows, others = (pd.read_csv(result["folder"] / f"scores.{split}.csv", dtype=str) for result in (one, other))
        pd.testing.assert_frame_equal(rows.drop(columns="logit"), others.drop(columns="logit"))
        np.testing.assert_allclose(rows["logit"].astype(float), others["logit"].astype(float), rtol=0, atol=within)
        assert one[split]["auc"] == other[split]["auc"] and one[split]["uauc"] == other[split]["uauc"]


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_train_as_one(toy: Path, model: str) -> None:
    """The loss of each step, the weights and the scores are those of one process, except for rounding."""
    one, two = run(model, "one"), run(model, "two", TORCHRUN)
    losses, others = ([epoch["loss"] for epoch in result["curve"]] for result in (one, two))
    assert len(losses) == 12
    np.testing.assert_allclose(losses, others, rtol=0, atol=1e-5)
    weights = [load_file(result["folder"] / "model.safetensors") for result in (one, two)]
    for name, tensor in weights[0].items():  # where a gradient is only noise, Adam still takes steps of 0.01
        np.testing.assert_allclose(tensor.numpy(), weights[1][name].numpy(), rtol=1e-3, atol=1e-3)
    same_scores(one, two, within=1e-4)


def test_two_processes_score_as_one(toy: Path) -> None:
    """The scores of a loaded model agree within 1e-6, and each row is scored by exactly one process."""
    one = run("CoRA", "one")
    Path("counted.py").write_text(COUNTED)
    _, _, *options = arguments("CoRA", checkpoint_dir="two", checkpoint=str(one["folder"]))
    same_scores(one, wait_for_result("two", launch([*TORCHRUN, "counted.py", *options])), within=1e-6)
    row_counts = [int(Path(f"rows.{rank}").read_text()) for rank in (0, 1)]
    assert sum(row_counts) == one["rows"]["valid"] + one["rows"]["test"] and min(row_counts) > 0


def both(script: str, port: int) -> list[tuple[int, str]]:
    """Run the same lines in two processes and return each one's exit status and standard error.

    There is no launcher, which would end one process when the other fails.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    lines = f"""
import sys, time
from datetime import timedelta
import torch.distributed as dist
from recbole_cora import processes
from recbole_cora.errors import CoraError

def main():
{textwrap.indent(textwrap.dedent(script), "    ")}

try:
    main()
except CoraError as error:
    sys.exit(f"error: {{error}}")
"""
    pair = [launch(["-c", lines], RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", **address) for rank in "01"]
    try:
        errors = [process.communicate(timeout=60)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [(process.returncode, text) for process, text in zip(pair, errors, strict=True)]


def test_waiting_for_the_main_process_outlasts_the_timeout_of_a_step() -> None:
    """The main process may compute for hours; only training steps have the group's timeout, here 2 seconds."""
    script = """
        dist.init_process_group("gloo", timeout=timedelta(seconds=2))
        processes.join(on_cpu=True)
        with processes.main_first():
            time.sleep(4 if processes.is_main() else 0)
        assert processes.broadcast_from_main(lambda: time.sleep(4) or "made") == "made"
        time.sleep(4 if processes.is_main() else 0)
        processes.wait()
    """
    for status, stderr in both(script, 29581):
        assert status == 0, stderr[-3000:]


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("with processes.main_first(): processes.is_main() and 1 / 0", "ZeroDivisionError: division by zero"),
        ("processes.broadcast_from_main(lambda: {}['missing'])", "KeyError: 'missing'"),
        ("processes.is_main() and sys.exit(7)\nprocesses.wait()", "a process of this run is gone"),
    ],
)
def test_no_process_waits_for_a_main_process_that_failed(failing: str, message: str) -> None:
    """The other process ends too, with a one-line error, however the main process has ended."""
    main, other = both(f"processes.join(on_cpu=True)\n{failing}\ntime.sleep(600)", 29582)
    assert main[0] == (7 if "exit" in failing else 1) and other[0] == 1
    (line,) = [line for line in other[1].splitlines() if line.startswith("error: ")]
    assert message in line


def test_a_mistake_is_the_same_line_in_every_process() -> None:
    """A CoraError of the main process is raised unchanged in all processes."""
    script = """
        processes.join(on_cpu=True)
        def make():
            raise CoraError("no such thing")
        processes.broadcast_from_main(make)
    """
    assert all(stderr.splitlines()[-1] == "error: no such thing" for _, stderr in both(script, 29583))


def test_every_launcher_is_understood(toy: Path) -> None:
    """`accelerate launch` and mpirun start one run of two processes, not two separate runs."""
    one = run("MF", "one")
    same_scores(one, run("MF", "accelerate", ACCELERATE), within=1e-4)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "OMPI_COMM_WORLD_SIZE": "2"}
    both = [
        launch(
            arguments("MF", checkpoint_dir="mpi"), OMPI_COMM_WORLD_RANK=rank, OMPI_COMM_WORLD_LOCAL_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_SIZE="2", **address,
        )
        for rank in "01"
    ]  # fmt: skip
    same_scores(one, wait_for_result("mpi", *both), within=1e-4)


def test_two_processes_go_on_as_if_not_stopped(toy: Path) -> None:
    """Stopped by SIGTERM, then by SIGKILL, a resumed run ends like an uninterrupted one, bit for bit.

    That includes dropout, for which each process has its own random numbers.
    """
    changes = {"generator_dropout": 0.2, "epochs": 60, "save_every": 3}
    whole = run("CoRA", "whole", TORCHRUN, **changes)
    options = arguments("CoRA", checkpoint_dir="stopped", resume="auto", **changes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        states_before = set(Path("stopped").glob("*/training-*"))
        process = launch([*TORCHRUN, *options])
        while process.poll() is None and not set(Path("stopped").glob("*/training-*")) - states_before:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)  # torchrun passes SIGTERM on
        for worker in workers if number == signal.SIGKILL else ():
            worker.kill()
        process.communicate(timeout=60)
        assert process.returncode != 0 and not list(Path("stopped").glob("*/result.json"))
    again = wait_for_result("stopped", launch([*TORCHRUN, *options]))
    weights = [load_file(result["folder"] / "model.safetensors") for result in (whole, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert whole["test"] == again["test"] and whole["curve"] == again["curve"]


def test_a_model_that_several_processes_would_change_is_refused(toy: Path) -> None:
    """A model with batch normalisation is refused."""
    process = launch([*TORCHRUN, "-m", "recbole_cora.cli", "run", "--model=NFM", "--dataset=toy"])
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "error: NFM normalises over batches" in stderr
