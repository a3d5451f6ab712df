"""Laws of settings: RecBole's order and habits, values read as YAML, and no key that nobody declared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from recbole_cora import metrics, repairs
from recbole_cora.config import CoraConfig, is_label_aware
from recbole_cora.errors import SettingError
from recbole_cora.registry import model_class, recbole_models
from recbole_cora.settings.reading import PROPERTIES, parse_arguments, read_value, read_yaml

repairs.apply_all()
metrics.register()


def _config(options: dict[str, Any] | None = None, files: list[str] | None = None, model: str = "MF") -> CoraConfig:
    return CoraConfig(model_class(model), "ml-100k", options, files)


def test_the_order_is_internal_then_files_then_command_line(tmp_path: Path) -> None:
    """A later file wins over an earlier one, and the command line over both."""
    (tmp_path / "a.yaml").write_text("embedding_size: 8\nlearning_rate: 0.1\nepochs: 3\n")
    (tmp_path / "b.yaml").write_text("learning_rate: 2e-2\nepochs: 4\n")
    own = read_yaml(PROPERTIES / "model" / "MF.yaml")
    config = _config({"epochs": 5}, [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    got = [config[k] for k in ("weight_decay", "embedding_size", "learning_rate", "epochs")]
    assert got == [own["weight_decay"], 8, 0.02, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("0.5", 0.5), ("[a, b]", ["a", "b"]), ("true", True), ("{rating: 4}", {"rating": 4}),
     ("MF", "MF"), ("'1'", "1"), ("None", "None"), ("__import__('os')", "__import__('os')"), ("~", None)],
)  # fmt: skip
def test_a_value_is_yaml_and_never_evaluated(text: str, value: object) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "[1, 2", "{a"])
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    """Tags that would build Python objects too."""
    with pytest.raises(SettingError, match="cannot read the value"):
        read_value(text)


def test_arguments_take_an_equals_sign_or_a_space() -> None:
    assert parse_arguments(["--a=x=1", "--b", "2", "--config_files=p.yaml q.yaml"]) == {
        "a": "x=1",
        "b": 2,
        "config_files": ["p.yaml", "q.yaml"],
    }


def test_a_key_may_have_a_value_for_standing_alone() -> None:
    """And still takes one."""
    for arguments, value in ((["--resume"], "auto"), (["--resume", "--b=1"], "auto"), (["--resume", "x"], "x")):
        assert parse_arguments(arguments, alone={"resume": "auto"})["resume"] == value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["a=1"], "expected --key=value"), (["--a"], "has no value"), (["--a=1", "--a=2"], "given twice")],
)
def test_what_is_no_argument_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        parse_arguments(arguments)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """In a file as on the command line."""
    with pytest.raises(SettingError, match=r"unknown setting 'embeding_size'.*did you mean 'embedding_size'"):
        _config({"embeding_size": 8})
    (tmp_path / "a.yaml").write_text("topkk: 1\n")
    with pytest.raises(SettingError, match="topkk"):
        _config(files=[str(tmp_path / "a.yaml")])


def test_visible_devices_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole overwrites CUDA_VISIBLE_DEVICES, by which ray and torchrun place processes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    _config({"gpu_id": "0"})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_models_that_read_labels_are_told_from_those_that_do_not() -> None:
    """RecBole has no flag for it."""
    known = {
        **recbole_models(),
        "Averages": model_class("Averages"),
        "MF": model_class("MF"),
        "CoRA": model_class("CoRA"),
    }
    aware = {n for n in ("MF", "CoRA", "Averages", "FM", "DeepFM", "NeuMF", "DIN") if is_label_aware(known[n])}
    unaware = {n for n in ("BPR", "LightGCN", "SASRec", "GRU4Rec", "ItemKNN", "Pop") if is_label_aware(known[n])}
    assert aware == {"MF", "CoRA", "Averages", "FM", "DeepFM", "NeuMF", "DIN"} and not unaware
