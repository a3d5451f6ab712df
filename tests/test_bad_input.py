"""A user's mistake gives one line on standard error and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from recbole_cora.cli import main
from tests.conftest import write_toy

HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
#: A value that RecBole's own command line would evaluate.
EVIL = "__import__('os').system('touch pwned')"


def _one_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run with these arguments and return the one line of the error."""
    assert main(["run", "--show_progress=False", *arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert not list(Path("saved").glob("*")), "a refused run left a folder"
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=CORA", "--dataset=toy"], "did you mean 'CoRA'"),
        (["--model=MF", "--dataset=nowhere"], "no dataset folder"),
        (["--model=MF", "--dataset=toy", "--learning_rat=1"], "did you mean 'learning_rate'"),
        (["--model=MF", "--dataset=toy", "--learning_rate=fast"], "expected a number"),
        (["--model=MF", "--dataset=toy", f"--note={EVIL}"], "unknown setting 'note'"),
        (["--model=MF"], "needs --model= and --dataset="),
        (["--model=MF", "--dataset=toy", "--config_files=no.yaml"], "cannot read the settings file"),
        (["--model=MF", "--dataset=toy", "--metrics=[Recall]"], "expected a list of some of AUC"),
        (["--model=CoRA", "--dataset=toy", "--llm=./nowhere"], "no LLM folder './nowhere'; expected a Hugging Face"),
        (["--model=MF", "--dataset=toy", f"--learning_rate={EVIL}"], "expected a number"),
        (["--model=MF", "--dataset=toy", f"--title_field={EVIL}"], "has no title column"),
        (["--model=CoRA", "--dataset=toy", "--cf_encoder=FM", "--llm=tiny", "--tiny_steps=1"], "expected one of MF"),
        (["--model=MF", "--dataset=toy", "--checkpoint=nowhere"], "expected the folder of a run"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    toy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """The line says what is wrong and what to do; no value is ever evaluated."""
    assert message in _one_error(capsys, *arguments)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("CoRA", {"item": None}, "has no titles"),
        ("MF", {"inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n"}, "no labels"),
        ("MF", {"inter": HEAD}, "no rows"),
        ("MF", {"inter": HEAD + "".join(f"u\ti{n}\t5\t{n}\n" for n in range(30))}, "every train row"),
        ("MF", {"inter": HEAD + "u\ti\t5\t1\n"}, "split of bad is empty"),
        ("MF", {"inter": HEAD + "u\ti\tgood\t1\n"}, "line 2: 'rating' is 'good'"),
        ("MF", {"inter": HEAD + "u\ti\t5\n"}, "line 2 has 3 cells"),
        ("MF", {"inter": HEAD + "u\ti\0\t5\t1\n"}, "line 2: 'item_id' is 'i\\x00', which holds a NUL"),
        ("CoRA", {"item": "item_id:token\tname_of_it:token_seq\ni1\tx\n"}, "--title_field="),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused(
    toy: Path, capsys: pytest.CaptureFixture[str], model: str, changes: dict[str, str | None], message: str
) -> None:
    """The error names missing titles, labels, classes or splits, and the file and line of broken rows."""
    write_toy(toy.parent, "bad", **changes)
    llm = ["--llm=tiny"] if model == "CoRA" else []
    assert message in _one_error(capsys, f"--model={model}", "--dataset=bad", *llm)


def test_a_run_of_another_model_is_no_lora(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the run in `lora_checkpoint` and the model that was expected."""
    small = ["--show_progress=False", "--llm=tiny", "--tiny_steps=1", "--tiny_hidden=32", "--tiny_layers=1"]
    Path("earlier").mkdir()
    Path("earlier/result.json").write_text('{"model": "MF", "dataset": "toy", "config": {"embedding_size": 8}}')
    options = ["--cf_config={epochs: 1}", "--cf_evidence=[]", "--lora_checkpoint=earlier"]
    message = "--lora_checkpoint=earlier is a run of MF; expected one of TALLRec"
    assert message in _one_error(capsys, "--model=CoLLM", "--dataset=toy", *small, *options)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))  # type: ignore[return-value]


def test_a_pickle_posing_as_a_checkpoint_is_refused_unread(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No pickle is ever loaded, whatever the file is called."""
    Path("run").mkdir()
    Path("run/result.json").write_text('{"model": "MF", "dataset": "toy", "config": {}}')
    Path("run/model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    assert main(["run", "--model=MF", "--dataset=toy", "--show_progress=False", "--checkpoint=run"]) == 2
    assert "refused unread" in capsys.readouterr().err
    assert not Path("pwned").exists()
