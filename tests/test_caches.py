"""Laws of the cache: an entry is complete, lists its files, and is made again if it is damaged."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

import recbole_cora
from recbole_cora import cache, metrics, repairs
from recbole_cora.cf import evidence
from recbole_cora.cli import main
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import CheckpointError, LLMError, WriteError
from recbole_cora.llm import hub
from recbole_cora.parts import llm as llm_part
from recbole_cora.parts import stages
from recbole_cora.prompts import rows as row_prompts
from recbole_cora.training.board import Board, silence_threads

TINY: dict[str, Any] = {
    "llm": "tiny", "tiny_steps": 3, "tiny_hidden": 32, "tiny_layers": 1, "steps_per_epoch": 2, "epochs": 1,
    "learning_rate": 0.01, "cf_config": {"epochs": 1}, "references": False, "show_progress": False, "seed": 3,
}  # fmt: skip
#: Models that together make every kind of cache entry.
MODELS: dict[str, dict[str, Any]] = {
    "CoRA": {"hidden": 32, "feed_forward": 32, "rank": 4, "cf_folds": 2, "cf_evidence": ["score"]},
    "BinLLM": {
        "codes_config": {"epochs": 1}, "cf_evidence": [], "lora_config": {"epochs": 1, "steps_per_epoch": 2},
    },
}  # fmt: skip
KINDS = {"llm", "tokens", "encoder", "encoder_scores", "codes", "lora"}


def run(model: str, **options: Any) -> dict[str, Any]:
    return recbole_cora.run(model=model, dataset="toy", options={**TINY, **MODELS[model], **options})


def entries() -> list[Path]:
    return sorted(Path(".cache").glob("*/*"))


def kinds() -> set[str]:
    return {entry.parent.name for entry in entries()}


def empty_all(entry: Path) -> None:
    for path in entry.iterdir():
        path.write_bytes(b"")


def truncate_all(entry: Path) -> None:
    for path in entry.iterdir():
        if path.name != "manifest.json":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(entry: Path) -> None:
    path = max(entry.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def remove_one(entry: Path) -> None:
    next(path for path in sorted(entry.iterdir(), reverse=True) if path.name != "manifest.json").unlink()


def no_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def no_folder(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_bytes(b"")


DAMAGES = [empty_all, truncate_all, flip_a_bit, remove_one, no_manifest, no_folder]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_damaged_entries_are_made_again_with_a_warning_each(
    toy: Path, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    """Every kind of entry is damaged in some way: each gets a one-line warning, and the scores stay the same."""
    whole = run(model)
    before = entries()
    assert kinds() == KINDS - ({"codes", "lora"} if model == "CoRA" else {"encoder_scores"})
    for number, entry in enumerate(before):
        DAMAGES[number % len(DAMAGES)](entry)
    again = run(model)
    assert (again["test"], again["valid"]) == (whole["test"], whole["valid"])
    warnings = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert sorted(warning.split()[3] for warning in warnings) == [str(entry) for entry in before]
    assert not any("\n" in warning for warning in warnings)
    assert entries() == before
    caplog.clear()
    assert run(model)["test"] == whole["test"] and "damaged" not in caplog.text


def make(text: str, folder: Path) -> str:
    """Return the content of a cache entry of one file, which is made with `text` if there is none."""

    def fill(temporary: Path) -> None:
        (temporary / "file").write_text(text)

    return cache.cached(folder, fill, lambda entry: (entry / "file").read_text())


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_the_damage_an_entry_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """There is one warning; afterwards the entry is complete, and nothing else is left."""
    entry = tmp_path / "entry"
    make("some text", entry)
    damage(entry)
    assert make("some text", entry) == "some text"
    assert [record.getMessage().startswith(f"the cache entry {entry} is damaged (") for record in caplog.records] == [1]
    assert sorted(tmp_path.rglob("*")) == [entry, entry / "file", entry / "manifest.json"]
    assert make("never", entry) == "some text" and len(caplog.records) == 1


def test_an_entry_that_read_refuses_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """This holds even if its files match the manifest. If reading the new entry fails too, that is an error."""
    tries: list[Path] = []

    def read(folder: Path) -> str:
        tries.append(folder)
        if len(tries) == 1:
            raise CheckpointError("bad")
        return "read"

    make("one", tmp_path / "entry")
    assert cache.cached(tmp_path / "entry", lambda temporary: None, read) == "read"
    assert f"the cache entry {tmp_path / 'entry'} is damaged (bad); making it again" in caplog.text

    def never(folder: Path) -> None:
        raise ValueError("never")

    with pytest.raises(CheckpointError, match=r"cannot read .*entry, which was made just now \(never\)"):
        cache.cached(tmp_path / "entry", lambda temporary: None, never)


def test_large_files_are_checked_by_size_and_small_ones_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file is checked by its checksum, a large one by its size. The limit is 64 MiB; here it is 3 bytes."""
    monkeypatch.setattr(cache, "_HASHED_BYTES", 3)
    for text, changed, goes_unnoticed in (("abc", "abd", False), ("abcd", "abce", True), ("abcd", "abc", False)):
        make(text, tmp_path / "entry")
        (tmp_path / "entry" / "file").write_text(changed)
        assert (make(text, tmp_path / "entry") == changed) == goes_unnoticed
        shutil.rmtree(tmp_path / "entry")


def test_an_entry_that_another_process_has_made_again_is_not_thrown_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both processes have seen the damage, and the other one has already replaced the entry."""
    entry = tmp_path / "entry"
    make("old", entry)
    replacements: list[int] = []

    def read(folder: Path) -> str:
        text = (folder / "file").read_text()
        if not replacements:  # the other process is faster
            replacements.append(1)
            shutil.rmtree(folder)
            make("new", folder)
            raise ValueError(text)
        return text

    assert cache.cached(entry, lambda temporary: (temporary / "file").write_text("mine"), read) == "new"  # type: ignore[arg-type]
    assert "damaged" not in caplog.text


def _make_each_round(folder: Path, barrier: Any, answers: Any) -> None:
    for _ in range(_ROUNDS):
        barrier.wait(60)  # until the entry is damaged
        answers.put(make("good", folder))
        barrier.wait(60)


_ROUNDS = 12


def test_processes_at_one_damaged_entry_all_read_a_whole_one(tmp_path: Path) -> None:
    """Three processes read a damaged entry at once, for each kind of damage; nothing else is left in the folder."""
    context = multiprocessing.get_context("fork")
    barrier, answers, entry = context.Barrier(4), context.Queue(), tmp_path / "entry"
    processes = [context.Process(target=_make_each_round, args=(entry, barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    for number in range(_ROUNDS):
        make("good", entry)
        DAMAGES[number % len(DAMAGES)](entry)
        barrier.wait(60)
        assert [answers.get(timeout=60) for _ in processes] == ["good"] * 3
        barrier.wait(60)
        assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_an_entry_is_readable_for_the_group(tmp_path: Path, toy: Path) -> None:
    """All files and folders are readable, whatever modes libraries set (safetensors: 0600), even the tiny LLM's."""
    run("CoRA", cf_evidence=[])
    paths = list(Path(".cache").rglob("*"))
    assert len(paths) > 15
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() else 0o644), path


def _killed_while_filling(folder: Path) -> None:
    def fill(temporary: Path) -> None:
        (temporary / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    cache.make_folder_whole(folder, fill)


def _slow(folder: Path) -> None:
    def fill(temporary: Path) -> None:
        (temporary / "half").touch()
        time.sleep(60)

    cache.make_folder_whole(folder, fill)


def test_what_killed_processes_left_is_swept_and_that_of_living_ones_stays(tmp_path: Path) -> None:
    """Making the next entry removes leftovers. Folders of another machine and of the user stay as well."""
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_killed_while_filling, args=(tmp_path / "killed",))
    killed.start()
    killed.join(60)
    living = context.Process(target=_slow, args=(tmp_path / "living",))
    assert [path.name[:8] for path in tmp_path.iterdir()] == [".killed."]
    living.start()
    try:
        while not list(tmp_path.glob(".living.*/half")):
            time.sleep(0.005)
        (tmp_path / ".hidden.folder").mkdir()
        (tmp_path / ".entry.another-machine-abcd1234").mkdir()
        make("text", tmp_path / "entry")
        names = sorted(path.name[:8] for path in tmp_path.iterdir())
        assert names == [".entry.a", ".hidden.", ".living.", "entry"]
    finally:
        living.kill()
        living.join(60)
    make("text", tmp_path / "other")
    assert not list(tmp_path.glob(".living*"))


@pytest.mark.slow
def test_each_key_holds_the_versions_of_what_makes_the_entry(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising a version renews the kinds of entries that depend on it, and no others.

    The version of the prompts' tokens also renews the LoRA, which depends on them.
    """
    run("CoRA"), run("BinLLM")
    for model, module, name, makes in (
        ("CoRA", llm_part, "TINY_VERSION", {"llm"}),
        ("BinLLM", stages, "STAGE_VERSION", {"encoder", "codes", "lora"}),
        ("CoRA", evidence, "STAGE_VERSION", {"encoder_scores"}),
        ("CoRA", evidence, "_VERSION", {"encoder_scores"}),
        ("BinLLM", row_prompts, "_VERSION", {"tokens", "lora"}),
    ):
        entries_before = set(entries())
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 1000)
            run(model)
        assert {entry.parent.name for entry in set(entries()) - entries_before} == makes, (module, name)


@contextmanager
def full(size: int) -> Iterator[None]:
    """Simulate a full disk: no file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_entry_that_cannot_be_written_is_one_error(toy: Path, kind: str) -> None:
    """A file blocks its folder, or the disk is full: the error names the entry and `--cache_dir`; nothing is left."""
    model = "CoRA" if kind == "encoder_scores" else "BinLLM"
    run(model)
    shutil.rmtree(Path(".cache") / kind)
    Path(".cache", kind).touch()
    with pytest.raises(
        WriteError, match=rf"cannot write .cache/{kind}/.* \(.*\).*give another --cache_dir=$"
    ) as caught:
        run(model)
    assert "\n" not in str(caught.value)
    Path(".cache", kind).unlink()

    def fill(temporary: Path) -> None:
        (temporary / "file").write_bytes(bytes(10_000))

    folder = Path(".cache", kind, "entry")
    with full(9_000), pytest.raises(WriteError, match=rf"cannot write {folder} \(File too large\).*--cache_dir=$"):
        cache.cached(folder, fill, lambda entry: None)
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize("size", [100, 5_000, 60_000])
def test_a_tiny_llm_that_cannot_be_written_is_one_error(toy: Path, size: int) -> None:
    """Libraries report a full disk in different ways: safetensors and tokenizers do not raise OSError."""
    Path("log").mkdir()
    repairs.apply_all()
    metrics.register()
    texts = [f"Title {number} Yes" for number in range(200)]

    def fill(temporary: Path) -> None:
        llm_part.make_tiny_llm(temporary, texts, seed=1, steps=1, hidden=64, layers=1, show_progress=False)

    with full(size), pytest.raises(WriteError, match=r"cannot write tiny \(.*[Ff]ile too large.*--cache_dir=$"):
        cache.cached(Path("tiny"), fill, lambda entry: None)
    assert not Path("tiny").exists() and not list(Path().glob(".tiny*"))


def _file(path: Path) -> str:
    """Make a file and return its path."""
    path.write_text("a file")
    return str(path)


UNWRITABLE: dict[str, tuple[Callable[[], list[str]], str]] = {
    "cache_dir": (lambda: [f"--cache_dir={_file(Path('here'))}"], "--cache_dir="),
    "cache_dir, no such place": (lambda: ["--cache_dir=/proc/here"], "--cache_dir="),
    "checkpoint_dir": (lambda: [f"--checkpoint_dir={_file(Path('here'))}"], "--checkpoint_dir="),
    "checkpoint_dir, no such place": (lambda: ["--checkpoint_dir=/proc/here"], "--checkpoint_dir="),
    "log": (lambda: [_file(Path("log"))][1:], "another folder"),
    "log_tensorboard": (lambda: [_file(Path("log_tensorboard"))][1:], "another folder"),
}


@pytest.mark.parametrize("place", UNWRITABLE)
def test_a_place_that_cannot_be_written_is_one_error(toy: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    """Before any training, one line names the folder and the remedy; the exit code is 2."""
    arguments, remedy = UNWRITABLE[place]
    options = ["run", "--model=CoRA", "--dataset=toy", "--llm=tiny", "--tiny_steps=1", "--show_progress=False"]
    assert main([*options, *arguments()]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: cannot write ") and error.endswith(remedy)
    assert ("here" if "dir" in place else place) in error
    assert not list(Path().glob("saved/*/*")) and not Path(".cache/encoder").exists()


def test_a_log_that_cannot_be_written_any_more_is_dropped(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one warning, and the run continues without the log."""
    from recbole_cora import quick_start

    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # with pytest's handlers, RecBole would not add its own
    log_rows = quick_start._log_rows

    def fill_up(ratings: Ratings) -> None:
        (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler))
        handler.setStream(Path("/dev/full").open("w"))  # noqa: SIM115
        log_rows(ratings)

    monkeypatch.setattr(quick_start, "_log_rows", fill_up)
    assert "auc" in recbole_cora.run(model="Averages", dataset="toy", options={"show_progress": False})["test"]
    stderr = capsys.readouterr().err
    assert stderr.count("cannot write the log") == 1 and "Traceback" not in stderr and "Logging error" not in stderr


def test_a_tensorboard_that_cannot_be_written_any_more_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning and no traceback, whether a call or the writer's thread notices the full disk first."""
    silence_threads()
    board = Board(SummaryWriter(str(tmp_path / "board")))
    board.add_scalar("loss", 1.0, 1)
    board.flush()
    with full(0):
        for number in range(200):
            board.add_scalar("loss", 1.0, number)
        board.flush()
        board.add_hparams({"a": 1}, {"b": 2})
    assert caplog.text.count("cannot write ./log_tensorboard (File too large)") == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "error"),
    [("tokenizer_config.json", "has no tokenizer_config.json"), ("tokenizer.json", "cannot read the tokenizer")],
)
def test_an_llm_folder_without_a_file_of_its_tokenizer_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, error: str
) -> None:
    """One line names the file. `transformers` alone would make a tokenizer with other special tokens."""
    shutil.copytree(folders["llama"], tmp_path / "llm")
    (tmp_path / "llm" / name).unlink()
    with pytest.raises(LLMError, match=error) as caught:
        hub.load(str(tmp_path / "llm"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer"])
def test_an_llm_folder_without_a_vocabulary_is_refused(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """`transformers` alone would make a tokenizer with special tokens only, for which every text is empty."""
    shutil.copytree(folders["llama"], tmp_path / "llm")
    (tmp_path / "llm" / "tokenizer.json").unlink()
    (tmp_path / "llm" / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{kind}"}}')
    with pytest.raises(LLMError, match=r"has no vocabulary: none of .*json"):
        hub.load(str(tmp_path / "llm"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_damaged_tokenizer_is_an_llm_error(folders: dict[str, Path], tmp_path: Path, damage: bytes) -> None:
    """The tokenizers library raises a plain Exception, which becomes an LLMError."""
    shutil.copytree(folders["llama"], tmp_path / "llm")
    (tmp_path / "llm" / "tokenizer.json").write_bytes(damage)
    with pytest.raises(LLMError, match="cannot read the tokenizer of the LLM"):
        hub.load(str(tmp_path / "llm"))
