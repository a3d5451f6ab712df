"""Laws of several processes: together they are one."""

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

#: An epoch is a step here, so that the curve is one of steps. No dropout: its numbers are each process's own.
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
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
#: On a CPU too: this is the way of `accelerate launch` that starts processes by itself; its other one is mpirun's.
#: `recbole-cora`, and how many rows this process's CoRA has scored in `rows.RANK`.
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
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"]


def arguments(model: str, **changes: Any) -> list[str]:
    """After the interpreter and its launcher."""
    options = [f"--{key}={json.dumps(value)}" for key, value in {**MODELS[model], **changes}.items()]
    return ["-m", "recbole_cora.cli", "run", f"--model={model}", "--dataset=toy", *options]


def launched(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """A process of our interpreter, the leader of a group."""
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def result(folder: str, *processes: subprocess.Popen[str]) -> dict[str, Any]:
    """What the processes have written together: one folder, one result."""
    for process in processes:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said[-3000:]
    (path,) = Path(folder).glob("*/result.json")
    found: dict[str, Any] = {**json.loads(path.read_text()), "folder": path.parent}
    return found


def ran(model: str, folder: str, launcher: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    command = [*(launcher or []), *arguments(model, checkpoint_dir=folder, **changes)]
    return result(folder, launched(command))


def same_scores(one: dict[str, Any], other: dict[str, Any], within: float) -> None:
    """The same rows in the same order, scores alike, and with them the metrics."""
    for split in ("valid", "test"):
        rows, others = (pd.read_csv(found["folder"] / f"scores.{split}.csv", dtype=str) for found in (one, other))
        pd.testing.assert_frame_equal(rows.drop(columns="logit"), others.drop(columns="logit"))
        np.testing.assert_allclose(rows["logit"].astype(float), others["logit"].astype(float), rtol=0, atol=within)
        assert one[split]["auc"] == other[split]["auc"] and one[split]["uauc"] == other[split]["uauc"]


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_train_as_one(toy: Path, model: str) -> None:
    """The loss of each step, the weights and the scores are those of one process, but for rounding."""
    one, two = ran(model, "one"), ran(model, "two", TORCHRUN)
    losses, others = ([epoch["loss"] for epoch in found["curve"]] for found in (one, two))
    assert len(losses) == 12
    np.testing.assert_allclose(losses, others, rtol=0, atol=1e-5)
    weights = [load_file(found["folder"] / "model.safetensors") for found in (one, two)]
    for name, tensor in weights[0].items():  # Adam takes steps of 0.01 of the sign of a gradient that is noise, too
        np.testing.assert_allclose(tensor.numpy(), weights[1][name].numpy(), rtol=1e-3, atol=1e-3)
    same_scores(one, two, within=1e-4)


def test_two_processes_score_as_one(toy: Path) -> None:
    """The scores of a loaded model, within 1e-6; every row is scored once, by one of them."""
    one = ran("CoRA", "one")
    Path("counted.py").write_text(COUNTED)
    _, _, *options = arguments("CoRA", checkpoint_dir="two", checkpoint=str(one["folder"]))
    same_scores(one, result("two", launched([*TORCHRUN, "counted.py", *options])), within=1e-6)
    scored = [int(Path(f"rows.{rank}").read_text()) for rank in (0, 1)]
    assert sum(scored) == one["rows"]["valid"] + one["rows"]["test"] and min(scored) > 0


def both(script: str, port: int) -> list[tuple[int, str]]:
    """Exit status and standard error of two processes that run the same lines, without a launcher that ends either."""
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
    pair = [launched(["-c", lines], RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", **address) for rank in "01"]
    try:
        said = [process.communicate(timeout=60)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [(process.returncode, text) for process, text in zip(pair, said, strict=True)]


def test_waiting_for_the_main_process_outlasts_the_timeout_of_a_step() -> None:
    """What it makes may take hours; steps keep the group's own timeout, here 2 seconds."""
    script = """
        dist.init_process_group("gloo", timeout=timedelta(seconds=2))
        processes.join(on_cpu=True)
        with processes.main_first():
            time.sleep(4 if processes.is_main() else 0)
        assert processes.broadcast_from_main(lambda: time.sleep(4) or "made") == "made"
        time.sleep(4 if processes.is_main() else 0)
        processes.wait()
    """
    for status, said in both(script, 29581):
        assert status == 0, said[-3000:]


@pytest.mark.parametrize(
    ("failing", "says"),
    [
        ("with processes.main_first(): processes.is_main() and 1 / 0", "ZeroDivisionError: division by zero"),
        ("processes.broadcast_from_main(lambda: {}['missing'])", "KeyError: 'missing'"),
        ("processes.is_main() and sys.exit(7)\nprocesses.wait()", "a process of this run is gone"),
    ],
)
def test_no_process_waits_for_a_main_process_that_failed(failing: str, says: str) -> None:
    """Whatever ended it: the other one ends too, with one line."""
    main, other = both(f"processes.join(on_cpu=True)\n{failing}\ntime.sleep(600)", 29582)
    assert main[0] == (7 if "exit" in failing else 1) and other[0] == 1
    (line,) = [line for line in other[1].splitlines() if line.startswith("error: ")]
    assert says in line


def test_a_mistake_is_the_same_line_in_every_process() -> None:
    """A CoraError of the main process is raised in all as it is."""
    script = """
        processes.join(on_cpu=True)
        def make():
            raise CoraError("no such thing")
        processes.broadcast_from_main(make)
    """
    assert all(said.splitlines()[-1] == "error: no such thing" for _, said in both(script, 29583))


def test_every_launcher_is_understood(toy: Path) -> None:
    """What `accelerate launch` and mpirun start is two processes, not twice one."""
    one = ran("MF", "one")
    same_scores(one, ran("MF", "accelerate", ACCELERATE), within=1e-4)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "OMPI_COMM_WORLD_SIZE": "2"}
    both = [
        launched(
            arguments("MF", checkpoint_dir="mpi"), OMPI_COMM_WORLD_RANK=rank, OMPI_COMM_WORLD_LOCAL_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_SIZE="2", **address,
        )
        for rank in "01"
    ]  # fmt: skip
    same_scores(one, result("mpi", *both), within=1e-4)


def test_two_processes_go_on_as_if_not_stopped(toy: Path) -> None:
    """By SIGTERM, then by SIGKILL. With dropout, whose random numbers are each process's own: the same, bit for bit."""
    changes = {"generator_dropout": 0.2, "epochs": 60, "save_every": 3}
    whole = ran("CoRA", "whole", TORCHRUN, **changes)
    options = arguments("CoRA", checkpoint_dir="stopped", resume="auto", **changes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        known = set(Path("stopped").glob("*/training-*"))
        process = launched([*TORCHRUN, *options])
        while process.poll() is None and not set(Path("stopped").glob("*/training-*")) - known:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)  # torchrun passes SIGTERM on
        for worker in workers if number == signal.SIGKILL else ():
            worker.kill()
        process.communicate(timeout=60)
        assert process.returncode != 0 and not list(Path("stopped").glob("*/result.json"))
    again = result("stopped", launched([*TORCHRUN, *options]))
    weights = [load_file(found["folder"] / "model.safetensors") for found in (whole, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert whole["test"] == again["test"] and whole["curve"] == again["curve"]


def test_a_model_that_several_processes_would_change_is_refused(toy: Path) -> None:
    """One that normalises over batches."""
    process = launched([*TORCHRUN, "-m", "recbole_cora.cli", "run", "--model=NFM", "--dataset=toy"])
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "error: NFM normalises over batches" in said
