"""Laws of resuming: a run that was stopped in any way ends like an uninterrupted one, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from safetensors.torch import load_file, save_file

import recbole_cora
from recbole_cora import files, metrics, repairs
from recbole_cora.errors import CheckpointError, CoraError, WriteError
from recbole_cora.metrics import Metrics
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training import run_folder
from recbole_cora.training import state as training_state
from recbole_cora.training.batches import Position
from recbole_cora.training.state import Best, LossSum, TrainingState
from recbole_cora.training.trainer import CoraTrainer

CORA: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "steps_per_epoch": 5, "hidden": 32,
    "feed_forward": 32, "rank": 4, "learning_rate": 0.01, "warmup_steps": 2, "cf_config": {"epochs": 2}, "cf_folds": 2,
    "epochs": 3, "generator_dropout": 0.1, "references": False,
}  # fmt: skip
#: Models and settings that together cover epochs of steps with a schedule, epochs that are passes, negative samples,
#: accumulated gradients, and a counter of steps besides the weights.
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "CoRA": ("CoRA", CORA),
    "CoRA, accumulated": ("CoRA", {**CORA, "gradient_accumulation": 2}),
    "MF": ("MF", {"epochs": 3, "train_batch_size": 40}),
    "BPR": ("BPR", {"epochs": 3, "train_batch_size": 20}),
    "SASRec": ("SASRec", {"epochs": 3, "train_batch_size": 20, "loss_type": "BPR"}),
    "MultiVAE": ("MultiVAE", {"epochs": 3, "train_batch_size": 4, "total_anneal_steps": 10}),
}


def run(name: str, **options: Any) -> dict[str, Any]:
    model, settings = TRAININGS[name]
    settings = {"show_progress": False, "seed": 3, "save_every": 2, **settings, **options}
    return recbole_cora.run(model=model, dataset="toy", options=settings)


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("training-*"))


def state_after(step: int) -> TrainingState:
    """Return a small training state."""
    return TrainingState(
        model={"weight": torch.arange(4.0)}, numbers={}, optimizer={}, schedule=None,
        random=[], batches=Position(None, 0), parts=None, epoch=0, in_epoch=step,
        step=step, curve=[], losses=LossSum(0.0, 0), best=Best(0.5, None, 0),
    )  # fmt: skip


class _PowerFailure(BaseException):
    """The training ends as in a power failure, without saving anything."""


def fail_before(step: int) -> Callable[..., bool]:
    """Return a `_before_step` that fails before a step of a resumable training."""
    before_step = CoraTrainer._before_step

    def fail(self: CoraTrainer, in_epoch: int) -> bool:
        continues = before_step(self, in_epoch)
        if self._resumable and self._step == step:
            raise _PowerFailure
        return continues

    return fail


def weights(folder: str) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(toy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Power failures at any step, within an epoch or at its end, do not change metrics and weights."""
    whole = run(name)
    for stops in ((1,), (4,), (5,), (6,), (8,), (3, 7, 11)):
        for step in stops:
            with monkeypatch.context() as patch, pytest.raises(_PowerFailure):
                patch.setattr(CoraTrainer, "_before_step", fail_before(step))
                run(name, resume="auto")
        again = run(name, resume="auto")
        assert [again[key] for key in ("test", "valid", "curve")] == [whole[key] for key in ("test", "valid", "curve")]
        assert weights(again["folder"]) == weights(whole["folder"])
    assert len([path for path in Path("saved").iterdir() if path.is_dir()]) == 7  # no run was started twice


@pytest.fixture
def states_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run keeps its training states."""
    monkeypatch.setattr(training_state, "remove_all", lambda folder: None)


def test_the_last_states_are_kept(toy: Path, states_stay: None) -> None:
    """By default, two states are kept."""
    folder = Path(run("MF")["folder"])
    assert [path.name for path in states(folder)] == [f"training-{step:08d}.safetensors" for step in (12, 14)]


def test_a_finished_run_leaves_no_states_and_is_not_resumed(toy: Path) -> None:
    """Its states are removed once its result is written."""
    folder = Path(run("MF")["folder"])
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json", "run.json"]
    with pytest.raises(CheckpointError, match="is finished"):
        run("MF", resume=str(folder))
    assert run("MF", resume="auto")["folder"] != str(folder)


@pytest.mark.slow
def test_max_steps_bounds_a_run_which_can_then_go_further(toy: Path, states_stay: None) -> None:
    """A run that reaches `max_steps` is evaluated and scored. With more steps allowed, its training resumes."""
    result = run("CoRA", max_steps=5)
    assert training_state.latest(Path(result["folder"])).name == "training-00000005.safetensors"  # type: ignore[union-attr]
    (Path(result["folder"]) / "result.json").unlink()
    assert run("CoRA", resume=result["folder"])["test"] == run("CoRA")["test"]


def stopped(monkeypatch: pytest.MonkeyPatch, parent: Path = Path("saved"), name: str = "MF", step: int = 5) -> Path:
    """Return the folder of a run that a power failure stopped."""
    with monkeypatch.context() as patch, pytest.raises(_PowerFailure):
        patch.setattr(CoraTrainer, "_before_step", fail_before(step))
        run(name, checkpoint_dir=str(parent))
    (folder,) = (path for path in parent.iterdir() if path.is_dir())
    return folder


def test_what_is_not_the_same_run_is_refused_with_the_difference(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other settings, other data, and a folder without a run are refused."""
    folder = stopped(monkeypatch)
    with pytest.raises(CheckpointError, match="started with train_batch_size=40, here it is 41"):
        run("MF", resume=str(folder), train_batch_size=41)
    with pytest.raises(CheckpointError, match="nothing cannot be resumed"):
        run("MF", resume="saved/nothing")
    inter = toy / "toy.inter"
    inter.write_text(inter.read_text().replace("\t2\t", "\t5\t", 1))
    with pytest.raises(CheckpointError, match="another split of the rows"):
        run("MF", resume=str(folder))


def test_another_llm_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """Another LLM is refused even if its folder has the same name."""
    llm = Path("llm")
    shutil.copytree(folders["llama"], llm)
    settings = {"llm": str(llm), "dtype": "float32", "steps_per_epoch": 2, "epochs": 2, "hidden": 32, "rank": 4}
    monkeypatch.setitem(TRAININGS, "other", ("CoRA", {**CORA, **settings}))
    folder = stopped(monkeypatch, name="other", step=3)
    weights = load_file(llm / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, llm / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"was trained for another LLM \("):
        run("other", resume=str(folder))


def settings_of_a_run(**options: Any) -> CoraConfig:
    repairs.apply_all()
    metrics.register()
    return CoraConfig(model_class("MF"), "toy", {"seed": 3, **options})


def test_two_runs_of_one_second_do_not_share_a_folder(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have different folders even if the same random name is drawn for both."""
    random_names = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(run_folder.secrets, "token_hex", lambda _: next(random_names))
    monkeypatch.setattr(run_folder, "datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 1)))
    config = settings_of_a_run()
    with run_folder.claim(config) as one, run_folder.claim(config) as other:
        assert [one.name, other.name] == [f"MF-toy-20260101-000000-{last}" for last in ("aaaa", "bbbb")]
        (one / "file").touch(), (other / "file").touch()


def test_a_run_is_gone_on_with_by_one_process_at_a_time(toy: Path) -> None:
    """The same command, started meanwhile, starts a new run. Resuming the locked folder by name is refused."""
    config = settings_of_a_run(resume="auto")
    with run_folder.claim(config) as one:
        (one / "file").touch()
        with run_folder.claim(config) as other:
            assert other != one
            (other / "file").touch()
        named = settings_of_a_run(resume=str(one))
        with pytest.raises(CheckpointError, match="another process is using"), run_folder.claim(named):
            pass
    with run_folder.claim(named) as again:
        assert again == one


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_a_kill_amid_the_writing_of_a_state_loses_nothing(toy: Path, moment: str) -> None:
    """Either the earlier state or the new one is complete. Resuming removes the half-written file."""
    whole = run("MF")["test"]
    suffix, leftovers = ("file", 1) if moment == "before the rename" else ("dir", 0)
    patch = (
        "import os, sys, recbole_cora.files as files; sync, seen = files.sync, []\n"
        "def killed(path):\n"
        "    sync(path)\n"
        f"    seen.append(path) if list(path.parent.rglob('*training-00000004*')) and path.is_{suffix}() else None\n"
        "    os.kill(os.getpid(), 9) if seen else None\n"
        "files.sync = killed\n"
        "from recbole_cora.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    settings = [f"--{key}={json.dumps(value)}" for key, value in TRAININGS["MF"][1].items()]
    fixed = ["--model=MF", "--dataset=toy", "--seed=3", "--save_every=2", "--show_progress=False"]
    command = [sys.executable, "-c", patch, "run", *fixed, *settings, "--checkpoint_dir=killed"]
    assert subprocess.run(command, capture_output=True).returncode == -9
    (folder,) = Path("killed").iterdir()
    state = training_state.latest(folder)
    assert state is not None and state.name == f"training-0000000{2 if leftovers else 4}.safetensors"
    assert len(list(folder.glob(".*"))) == leftovers
    assert run("MF", resume="auto", checkpoint_dir="killed")["test"] == whole
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_cut_epoch_is_scored_and_can_be_gone_on_with(toy: Path, states_stay: None) -> None:
    """A run cut after 7 steps, in its second epoch, is scored. With more steps allowed, it ends as if never cut."""
    short_run = run("CoRA", max_steps=7)
    state = training_state.latest(Path(short_run["folder"]))
    assert state is not None and state.name == "training-00000007.safetensors"
    (Path(short_run["folder"]) / "result.json").unlink()
    again, whole = run("CoRA", resume=short_run["folder"]), run("CoRA")
    assert short_run["test"] != whole["test"] and again["test"] == whole["test"]


@pytest.mark.slow
def test_a_cut_epoch_is_scored_though_the_run_was_pulled_out_before(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power fails after step 7, the last, when the state is saved but not yet evaluated: resuming evaluates it."""
    short_run = run("CoRA", max_steps=7)
    validate = CoraTrainer._valid_epoch

    def fail(self: CoraTrainer, *args: Any, **options: Any) -> tuple[float, Metrics]:
        if self._cut_short:
            raise _PowerFailure
        return validate(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(_PowerFailure):
        patch.setattr(CoraTrainer, "_valid_epoch", fail)
        run("CoRA", max_steps=7, checkpoint_dir="failed")
    again = run("CoRA", max_steps=7, checkpoint_dir="failed", resume="auto")
    assert [again[key] for key in ("test", "valid", "curve")] == [short_run[key] for key in ("test", "valid", "curve")]


@pytest.mark.parametrize("size", [0, 8, 100, -1])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """Wherever the file is cut off, a warning names both states, and the run ends like an uninterrupted one."""
    whole = run("MF")
    folder = stopped(monkeypatch, Path("stopped"))
    before, last = states(folder)
    last.write_bytes(last.read_bytes()[:size])
    with monkeypatch.context() as patch, pytest.raises(_PowerFailure):  # its next state must win over the damaged one
        patch.setattr(CoraTrainer, "_before_step", fail_before(3))
        run("MF", resume=str(folder), keep_states=1)
    assert f"{last} is damaged; resuming from the state before it, {before}" in caplog.text
    again = run("MF", resume=str(folder), keep_states=1)
    assert [again[key] for key in ("test", "valid", "curve")] == [whole[key] for key in ("test", "valid", "curve")]
    assert weights(again["folder"]) == weights(whole["folder"])


def test_where_all_states_are_damaged_the_run_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line that names the run's folder."""
    folder = stopped(monkeypatch)
    for state in states(folder):
        state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"cannot resume {folder}: all 2 training states are damaged") as caught:
        run("MF", resume=str(folder))
    assert "\n" not in str(caught.value)


def test_a_state_in_which_a_bit_has_changed_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If any bit of its tensors or header has changed, the state before it is read."""
    for step in (1, 2):
        training_state.save(tmp_path, state_after(step), {}, keep=2)
    before, last = states(tmp_path)
    whole = last.read_bytes()
    for place in range(8, len(whole), 3):
        last.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            loaded = training_state.load(tmp_path, {})
        except CheckpointError:  # the bit was in the name of the format
            assert b"format" in whole[max(0, place - 40) : place + 40]
            continue
        assert loaded is not None, place
        assert (loaded[0], loaded[1].step) == (before, 1) or last.read_bytes() == whole, place


@pytest.mark.parametrize(("keep", "steps"), [(0, [6]), (1, [6]), (2, [5, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_as_many_states_stay_as_asked_and_the_newest_in_any_case(tmp_path: Path, keep: int, steps: list[int]) -> None:
    """Even `keep_states: 0` keeps the newest state, as without one the run could not be resumed."""
    for step in range(1, 7):
        training_state.save(tmp_path, state_after(step), {}, keep)
    assert [path.name for path in states(tmp_path)] == [f"training-{step:08d}.safetensors" for step in steps]
    training_state.remove_all(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff", b'"text"'])
def test_a_damaged_run_does_not_stop_the_others_from_being_resumed(
    toy: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    """It is skipped with a warning. Resuming it by name is refused."""
    config = settings_of_a_run(resume="auto")
    with run_folder.claim(config) as good:
        (good / "file").touch()
    bad = good.with_name("MF-toy-damaged")
    bad.mkdir()
    (bad / "run.json").write_bytes(damaged)
    with run_folder.claim(config) as resumed:
        assert resumed == good
    assert f"{bad / 'run.json'} is damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"run.json is damaged"):
        run_folder.check(settings_of_a_run(resume=str(bad)))


def test_a_run_folder_is_there_with_its_settings_or_not_at_all(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the settings cannot be written, no folder is left. The next run removes what a killed process has left."""
    config = settings_of_a_run()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", full)
        with pytest.raises(WriteError, match=r"cannot write saved/MF-toy-.*\(no space left\).*--checkpoint_dir="):
            run_folder.claim(config).__enter__()
    assert not list(Path("saved").iterdir())
    with monkeypatch.context() as patch, files.hidden_folder(Path("saved"), "living") as living:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        with files.hidden_folder(Path("saved"), "killed") as killed:
            (killed / "half").touch()
        patch.undo()
        with run_folder.claim(config) as folder:
            assert sorted(path.name for path in Path("saved").iterdir()) == sorted([living.name, folder.name])


def test_a_full_disk_leaves_the_state_before(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the earlier state. Once there is room again, the run resumes and ends with the same scores."""
    whole = run("MF")
    sync = files.sync

    def full(path: Path) -> None:
        if path.name.startswith(".training-00000006"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    with (
        monkeypatch.context() as patch,
        pytest.raises(WriteError, match=r"no space left.*training-00000004.*--checkpoint_dir=$"),
    ):
        patch.setattr(files, "sync", full)
        run("MF", resume="auto")
    assert run("MF", resume="auto")["test"] == whole["test"]


def test_a_loss_that_is_no_number_names_step_and_state(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops with an error that names the step, its rows and the last good state."""
    from recbole_cora.models.mf import MF

    calculate = MF.calculate_loss
    steps: list[int] = []

    def diverging(self: MF, interaction: Interaction) -> torch.Tensor:
        steps.append(1)
        loss = calculate(self, interaction)
        return loss * torch.nan if len(steps) == 5 else loss

    monkeypatch.setattr(MF, "calculate_loss", diverging)
    with pytest.raises(CoraError, match=r"became nan in step 5 .*on \d+ rows beginning with \d+, .*training-00000004"):
        run("MF")


def command(*arguments: str) -> list[str]:
    options = [f"--{key}={json.dumps(value)}" for key, value in {**CORA, "epochs": 20, "stopping_step": 20}.items()]
    fixed = ["--model=CoRA", "--dataset=toy", "--seed=3", "--save_every=2", "--show_progress=False", "--resume=auto"]
    return [sys.executable, "-m", "recbole_cora.cli", "run", *fixed, *options, *arguments]


@pytest.mark.slow
def test_a_signal_ends_a_run_cleanly_and_a_kill_loses_nothing(toy: Path) -> None:
    """SIGTERM, then SIGINT, then SIGKILL, each during training: the run ends like an uninterrupted one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(command(), check=True, capture_output=True, env=environment, text=True)
    expected = json.loads(Path(whole.stdout.splitlines()[-1]).read_text())
    draw = random.Random(0)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        states_before = set(Path("saved").glob("*/training-*"))
        process = subprocess.Popen(
            command(), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None and not set(Path("saved").glob("*/training-*")) - states_before:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.1)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
        assert process.returncode == status
        assert number == signal.SIGKILL or "stopped: after" in stderr
    last = subprocess.run(command(), check=True, capture_output=True, env=environment, text=True)
    result = json.loads(Path(last.stdout.splitlines()[-1]).read_text())
    assert (result["test"], result["valid"]) == (expected["test"], expected["valid"])
    assert len(list(Path("saved").glob("CoRA-*"))) == 2
