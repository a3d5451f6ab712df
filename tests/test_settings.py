"""Laws of settings: RecBole's precedence and defaults, values read as YAML, and no undeclared keys."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from recbole.config import Config

from recbole_cora import metrics, repairs
from recbole_cora.cf.encoder import PAIR_EMBEDDINGS
from recbole_cora.errors import SettingError
from recbole_cora.registry import OURS, model_class, recbole_models
from recbole_cora.settings.kinds import defaults_of, settings_of_group
from recbole_cora.settings.models import MODELS, Model
from recbole_cora.settings.pages import docs_page, model_help, yaml_pages
from recbole_cora.settings.parts import ENCODERS, EVIDENCE, PARTS
from recbole_cora.settings.presets import tiny_preset
from recbole_cora.settings.reading import PROPERTIES, parse_arguments, read_value, read_yaml
from recbole_cora.settings.recbole import recbole_model_kinds
from recbole_cora.settings.recbole_config import CoraConfig, is_label_aware
from recbole_cora.settings.resolve import declared_settings, resolve

repairs.apply_all()
metrics.register()


def _config(options: dict[str, Any] | None = None, files: list[str] | None = None, model: str = "MF") -> CoraConfig:
    return CoraConfig(model_class(model), "ml-100k", options, files)


def test_the_order_is_internal_then_files_then_command_line(tmp_path: Path) -> None:
    """A later file wins over an earlier one, and the command line over both."""
    (tmp_path / "a.yaml").write_text("embedding_size: 8\nlearning_rate: 0.1\nepochs: 3\n")
    (tmp_path / "b.yaml").write_text("learning_rate: 2e-2\nepochs: 4\n")
    defaults = read_yaml(PROPERTIES / "model" / "MF.yaml")
    config = _config({"epochs": 5}, [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    values = [config[k] for k in ("weight_decay", "embedding_size", "learning_rate", "epochs")]
    assert values == [defaults["weight_decay"], 8, 0.02, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("0.5", 0.5), ("[a, b]", ["a", "b"]), ("true", True), ("{rating: 4}", {"rating": 4}),
     ("MF", "MF"), ("'1'", "1"), ("None", "None"), ("__import__('os')", "__import__('os')"), ("~", None)],
)  # fmt: skip
def test_a_value_is_yaml_and_never_evaluated(text: str, value: object) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "[1, 2", "{a"])
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    """This includes tags that would build Python objects."""
    with pytest.raises(SettingError, match="cannot read the value"):
        read_value(text)


def test_arguments_take_an_equals_sign_or_a_space() -> None:
    assert parse_arguments(["--a=x=1", "--b", "2", "--config_files=p.yaml q.yaml"]) == {
        "a": "x=1",
        "b": 2,
        "config_files": ["p.yaml", "q.yaml"],
    }


def test_a_key_may_have_a_value_for_standing_alone() -> None:
    """A key such as `--resume` may stand alone or have a value."""
    for arguments, value in ((["--resume"], "auto"), (["--resume", "--b=1"], "auto"), (["--resume", "x"], "x")):
        assert parse_arguments(arguments, alone={"resume": "auto"})["resume"] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["a=1"], "expected --key=value"), (["--a"], "has no value"), (["--a=1", "--a=2"], "given twice")],
)
def test_what_is_no_argument_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_arguments(arguments)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """This holds in a file and on the command line."""
    with pytest.raises(SettingError, match=r"unknown setting 'embeding_size'.*did you mean 'embedding_size'"):
        _config({"embeding_size": 8})
    (tmp_path / "a.yaml").write_text("topkk: 1\n")
    with pytest.raises(SettingError, match="topkk"):
        _config(files=[str(tmp_path / "a.yaml")])


def test_visible_devices_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike RecBole, we do not overwrite CUDA_VISIBLE_DEVICES, with which ray and torchrun place processes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    _config({"gpu_id": "0"})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_models_that_read_labels_are_told_from_those_that_do_not() -> None:
    """They are told apart by their code, as RecBole has no flag for it."""
    models = {
        **recbole_models(),
        "Averages": model_class("Averages"),
        "MF": model_class("MF"),
        "CoRA": model_class("CoRA"),
    }
    for name in ("MF", "CoRA", "Averages", "FM", "DeepFM", "NeuMF", "DIN"):
        assert is_label_aware(models[name]), name
    for name in ("BPR", "LightGCN", "SASRec", "GRU4Rec", "ItemKNN", "Pop"):
        assert not is_label_aware(models[name]), name


def test_the_pages_are_those_of_the_declarations() -> None:
    """properties/ and docs/settings.md match the code; `python -m recbole_cora.settings` generates them."""
    for path, text in yaml_pages().items():
        assert (PROPERTIES / path).read_text(encoding="utf-8") == text, path
    assert (PROPERTIES.parent / "docs" / "settings.md").read_text(encoding="utf-8") == docs_page()
    declared = {f"{part}/{file.stem}" for part in ("parts", "model") for file in (PROPERTIES / part).glob("*.yaml")}
    assert declared == {path.removesuffix(".yaml") for path in yaml_pages()} - {"overall"}


@pytest.mark.parametrize("page", [*yaml_pages(), "llm/tiny.yaml", "space.yaml"])
def test_a_page_is_read_as_the_values_that_it_shows(page: str) -> None:
    """Our reader can read each page; a page of declarations holds exactly their defaults."""
    content = read_yaml(PROPERTIES / page)
    group = {**{f"parts/{part.file}": part for part in PARTS}, **{f"model/{n}": m for n, m in MODELS.items()}}
    if page.removesuffix(".yaml") in group:
        cls = group[page.removesuffix(".yaml")]
        assert content == {**defaults_of(settings_of_group(cls)), **getattr(cls, "defaults", {})}


def test_the_tiny_preset_is_of_settings_that_exist() -> None:
    """Each of its keys is a setting of the model that it is for, or of any model under `all`."""
    page = read_yaml(PROPERTIES / "llm" / "tiny.yaml")
    assert set(page) == {"all", "models", "with_evidence"}
    everything = {key for model in MODELS for key in declared_settings(model, "toy")}
    assert set(page["all"]) <= everything
    for part in ("models", "with_evidence"):
        for model, values in page[part].items():
            assert set(values) <= set(declared_settings(model, "toy"))


def test_a_preset_stands_below_what_the_user_chose() -> None:
    """The preset does not override the user's values; evidence has a preset of its own."""
    settings = resolve("CoRA", "toy", {"hidden": 64})
    preset, changes = tiny_preset(settings)
    assert preset["hidden"] == 64 and preset["heads"] == 4 and settings["heads"] == 8
    assert changes["heads"] == 4 and "hidden" not in changes
    with_evidence, _ = tiny_preset(resolve("CoRA", "toy", {"cf_evidence": "all"}))
    assert with_evidence["cf_dropout"] > preset["cf_dropout"]


def test_settings_are_frozen() -> None:
    """Neither the settings nor their values can be changed, not even through RecBole's Config."""
    settings = resolve("CoRA", "toy")
    with pytest.raises(TypeError):
        settings["heads"] = 4  # type: ignore[index]
    with pytest.raises(AttributeError):
        settings.data = {}  # type: ignore[misc]
    settings["eval_args"]["mode"] = "full"
    assert settings["eval_args"]["mode"] == "labeled"
    config = _config()
    with pytest.raises(TypeError, match="settings are frozen"):
        config["learning_rate"] = 1
    config["MASK_INDEX"] = "MASK_INDEX"  # as RecBole's transforms do


def test_the_papers_memory_is_the_default() -> None:
    """Models with CF embeddings get e_u and e_i alone, also with the tiny LLM; `all` is every kind of evidence."""
    for model in ("CoRA", "CoLLM", "BinLLM"):
        assert resolve(model, "toy")["cf_evidence"] == tiny_preset(resolve(model, "toy"))[0]["cf_evidence"] == []
        assert resolve(model, "toy", {"cf_evidence": "all"})["cf_evidence"] == list(EVIDENCE)
        assert resolve(model, "toy", {"cf_evidence": "score"})["cf_evidence"] == ["score"]


def test_what_is_declared_is_what_the_code_has() -> None:
    """The declarations name the encoders, the models and the constructor arguments that exist in the code."""
    assert set(ENCODERS) == set(PAIR_EMBEDDINGS)
    assert set(OURS) == set(MODELS) - {"SASRec"}
    arguments = {
        "llm": {"llm", "prompts"},
        "encoder": {"encoder"},
        "lora": {"lora"},
        "tallrec": {"lora"},
        "codes": set(),
    }
    for name in OURS:
        parameters = set(inspect.signature(model_class(name).__init__).parameters) - {"self", "config", "dataset"}
        assert parameters == set().union(*(arguments[part] for part in MODELS[name].needs)), name


@pytest.mark.parametrize("model", sorted(recbole_model_kinds()))
def test_recboles_defaults_are_recboles(model: str) -> None:
    """RecBole's defaults, read without importing it, equal those of its Config, except what this package declares."""
    repairs.apply_all()

    class Plain(Config):
        def _load_cmd_line(self) -> dict[str, Any]:
            return {}

        def _set_default_parameters(self) -> None:
            pass  # only the values read from files are compared

        def _init_device(self) -> None:
            pass

        def _set_train_neg_sample_args(self) -> None:
            pass

        def _set_eval_neg_sample_args(self, phase: str) -> None:
            pass

    for dataset in ("toy", "ml-100k"):
        theirs = Plain(model=model_class(model), dataset=dataset).internal_config_dict
        declared = declared_settings(model, dataset)
        package_settings = resolve(model, dataset).package_settings()
        assert set(theirs) - {"MODEL_TYPE"} <= set(declared)
        for key, value in theirs.items():
            if key in package_settings or key == "MODEL_TYPE" or key in MODELS.get(model, Model).defaults:
                continue
            ours = declared[key].default
            assert ours == value or float(ours) == float(value), (key, ours, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", "yes"), ("no", "no"), ("on", "on"), ("010", 10), ("0x10", 16), ("1:30", "1:30"),
     ("2001-06-01", "2001-06-01"), ("1_000", "1_000"), ("null", None), (".inf", float("inf")), ("-1.5E3", -1500.0),
     ("TRUE", True)],
)  # fmt: skip
def test_values_are_yaml_by_its_core_rules(text: str, value: object) -> None:
    """YAML 1.1 would read yes as true, 010 as eight and 1:30 as ninety."""
    assert read_value(text) == value


def test_yes_is_an_answer_score_and_a_truth() -> None:
    """The type of the key decides how a value is read."""
    settings = resolve("CoRA", "toy", {"answer_score": read_value("yes"), "show_titles": read_value("no")})
    assert settings["answer_score"] == "yes" and settings["show_titles"] is False
    assert resolve("MF", "toy", {"title_field": read_value("2010")})["title_field"] == "2010"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not allowed"),
        ("1: 2\n", "key 1 is not text"),
        ("a: 1\na: 2\n", "key 'a' occurs twice"),
        ("[1, 2]", "holds a list"),
        ("a: " + "[" * 3000, "not YAML|nested too deeply"),
        ("a: \x00", "not YAML"),
        ("x" * 1_100_000, "has 1,100,000 bytes"),
    ],
)
def test_a_hostile_file_of_settings_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    """It is refused with a one-line message; it neither hangs nor fills the memory."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", "/proc/self/mem", "a\x00b", "x" * 5000])
def test_what_is_no_file_of_settings_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match=r"is not a regular file|cannot read|not UTF-8|not YAML"):
        read_yaml(Path(path))


@pytest.mark.parametrize("dataset", ["a/b", "/etc", "..", ".hidden", "x" * 300, "a\x00b", "", 3, ["toy"], None])
def test_a_dataset_is_a_folders_name(dataset: Any) -> None:
    with pytest.raises(SettingError, match=r"dataset is .*expected the name of a folder"):
        resolve("MF", dataset)


@pytest.mark.parametrize("model", [["MF"], 3, None, {"a": 1}])
def test_a_model_is_one_name(model: Any) -> None:
    with pytest.raises(SettingError, match=r"model is .*expected one name"):
        resolve(model, "toy")


def test_help_names_every_setting_once() -> None:
    """Each line shows the type, the default and the help."""
    page = model_help("CoRA")
    for key, each in declared_settings("CoRA", "any").items():
        assert page.count(f"  --{key}=") == 1, key
        assert not each.help or each.help.split()[0] in page
    assert "(int, at least 1) k, the number of learnable queries." in page
