"""A value out of range is refused, before anything is loaded, with one line that names the key, value and range.

The values come from the declarations: each bound is exceeded once.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from recbole_cora import cli
from recbole_cora.errors import SettingError
from recbole_cora.registry import OURS
from recbole_cora.settings.kinds import Setting
from recbole_cora.settings.recbole import recbole_model_kinds
from recbole_cora.settings.resolve import declared_settings, resolve

MODELS = [*OURS, "SASRec", "DeepFM", "NGCF", "KGAT", "DIN"]


def bad_values(each: Setting) -> Iterator[object]:
    """Yield values of the wrong type, and one just outside each bound."""
    if each.kind in (int, float):
        yield from ("abc", {"a": 1})
        step = 1 if each.kind is int else 1e-6
        yield from ([] if each.least is None else [each.least - step])
        yield from ([] if each.most is None else [each.most + max(step, abs(each.most) * 1e-6)])
        yield from ([] if each.above is None else [each.above])
        yield from ([] if each.below is None else [each.below])
        yield from (math.nan, math.inf, True)
        if each.kind is int:
            yield 1.5
    elif each.kind is bool:
        yield from ("maybe", 2, [1])
    elif each.kind is str:
        yield from ([1, 2], {"a": 1}, 1.5, True)
        if each.one_of or each.letters:
            yield "no such value"
    elif each.kind is list:
        yield {"a": 1}
        if each.one_of:
            yield ["no such value"]
        if each.item in (int, float):
            yield ["abc"]
            yield from ([] if each.least is None else [[each.least - 1]])
    elif each.kind is dict:
        yield from (3, "abc", [1])
    if not each.optional and each.kind is not object and each.default is not None:
        yield None


def as_argument(value: object) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf"
    return "~" if value is None else json.dumps(value)


def cases() -> list[tuple[str, str, str]]:
    """Return bad values as (model, key, value), for every key of the models, each key once."""
    seen: set[str] = set()
    bad_cases = []
    for model in MODELS:
        for key, each in declared_settings(model, "toy").items():
            if key not in seen and key not in ("checkpoint", "resume"):
                seen.add(key)
                bad_cases += [(model, key, as_argument(value)) for value in bad_values(each)]
    return bad_cases


def test_every_edge_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Hundreds of bad values, over all keys, are refused in one line."""
    bad_cases = cases()
    assert len(bad_cases) > 400 and len({key for _, key, _ in bad_cases}) > 150
    wrong = []
    for model, key, value in bad_cases:
        status = cli.main(["run", f"--model={model}", "--dataset=toy", f"--{key}={value}"])
        out, err = capsys.readouterr()
        if status != 2 or out or err.count("\n") != 1 or key not in err or "expected" not in err:
            wrong.append((model, key, value, status, err[-200:]))
    assert not wrong


def test_every_default_is_in_range() -> None:
    """This holds for every model of this package and of RecBole, on any dataset and on ml-100k."""
    for model in {**recbole_model_kinds(), **OURS}:
        for dataset in ("toy", "ml-100k"):
            settings = resolve(model, dataset)
            for key, each in settings.declared.items():
                assert each.read(settings[key]) == settings[key], (model, key)


def test_all_that_is_wrong_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One line names all bad values and unknown keys."""
    assert cli.main(["run", "--model=CoRA", "--dataset=toy", "--heads=0", "--rank=-1", "--epoks=3"]) == 2
    line = capsys.readouterr().err
    assert "heads is 0" in line and "rank is -1" in line and "did you mean 'epochs'" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("CoRA", {"hidden": 30, "heads": 4}, "hidden is 30; expected a multiple of heads"),
        ("SAS", {"hidden_size": 30, "n_heads": 4}, "expected a multiple of n_heads"),
        ("CoRA", {"cf_config": {"embedding_size": 0}}, "cf_config: embedding_size is 0"),
        ("CoRA", {"cf_config": {"embeding_size": 8}}, "did you mean 'embedding_size'"),
        ("BinLLM", {"codes_config": {"bits": 0}}, "codes_config: bits is 0"),
        ("CoLLM", {"lora_config": {"lora_rank": 0}}, "lora_config: lora_rank is 0"),
        ("MF", {"eval_args": {"mode": "full"}}, "expected 'labeled'"),
        ("MF", {"threshold": {"rating": "four"}}, "expected one column and number"),
        ("CoRA", {"cf_evidence": "score, taste"}, "expected a list of some of"),
        ("CoRA", {"weights_on": "questions"}, "did you mean 'question'"),
        ("MF", {"neg_sampling": 3}, "use train_neg_sample_args"),
    ],
)
def test_values_must_fit_together(model: str, options: dict[str, Any], message: str) -> None:
    """The settings of inner stages are checked as well."""
    with pytest.raises(SettingError, match=message):
        resolve(model, "toy", options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--model=CoRA", "--dataset=ml-100k", "--heads=0"],
        ["run", "--model=CoRA", "--dataset=ml-100k", "--hedas=4"],
        ["run", "--model=DeepFMM", "--dataset=ml-100k"],
        ["compare", "--models=CoRA,MFF", "--dataset=ml-100k"],
        ["tune", "--model=MF", "--dataset=ml-100k", "--learning_rate=0"],
        ["run", "--help", "--model=CoRA"],
        ["compare", "--help"],
        ["tune", "--help"],
        ["run", "--models"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    """They are answered without importing torch, pandas, RecBole or ray."""
    heavy = ("torch", "pandas", "recbole", "transformers", "ray", "sklearn", "scipy")
    code = f"import sys; from recbole_cora.cli import main; main({arguments!r}); "
    code += f"print('loaded', [m for m in {heavy!r} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "loaded []"
