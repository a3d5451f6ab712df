"""Each repair of RecBole 1.2.1 fixes what it claims to fix, and applying all of them twice changes nothing."""

from __future__ import annotations

import ast
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole
import recbole.data.utils
import recbole.trainer.trainer
import recbole.utils.logger
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.trainer import Trainer

import recbole_cora
from recbole_cora import metrics, repairs
from recbole_cora.data.ratings import load_ratings
from recbole_cora.data.recbole_dataset import make_dataset
from recbole_cora.errors import CheckpointError, CoraError, DataError, SettingError
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.trainer import CoraTrainer
from tests.conftest import write_toy


def test_names_that_recbole_reads_are_there() -> None:
    """The names that numpy and scipy removed are restored; applying the repairs twice is harmless."""
    repairs.apply_all()
    repairs.apply_all()
    assert np.float_ is np.float64 and np.unicode_ is np.str_
    matrix = sp.dok_matrix((2, 2))
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]


def test_autograd_searches_no_gradient_for_nan() -> None:
    """Anomaly detection stays off after importing all of RecBole's sequential models."""
    repairs.apply_all()
    import recbole.model.sequential_recommender  # noqa: F401

    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("model", ["FM", "DeepFM"])
def test_recbole_reads_titles_with_quotes_in_its_feature_models(toy: Path, model: str) -> None:
    """A title that begins with a quote neither merges rows nor fails; with RecBole's CSV quoting it does both."""
    items = [f'i{n}\t"Quoted {n}\tDrama' for n in range(30)]
    write_toy(toy.parent, "quoted", item="\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *items]) + "\n")
    options = {"epochs": 1, "show_progress": False, "load_col": {"inter": ["user_id", "item_id"], "item": "*"}}
    result = recbole_cora.run(model=model, dataset="quoted", options=options)
    assert result["rows"]["train"] == 192


def test_missing_values_of_features_are_filled(toy: Path) -> None:
    """A missing number gets the mean, a missing token or sequence becomes empty; with RecBole on pandas 3 they stay."""
    header = "item_id:token\ttitle:token_seq\tclass:token_seq\tkind:token\tprice:float\tsizes:float_seq"
    gaps = {3: "class", 4: "kind", 5: "price"}
    cells = {"title": "A film", "class": "Drama Old", "kind": "dvd", "price": "{n}", "sizes": "1 2"}
    rows = [
        "\t".join([f"i{n}", *("" if gaps.get(n) == name else cell.format(n=n) for name, cell in cells.items())])
        for n in range(30)
    ]
    write_toy(toy.parent, "gaps", item="\n".join([header, *rows]) + "\n")
    repairs.apply_all()
    metrics.register()
    options = {"show_progress": False, "load_col": {"inter": ["user_id", "item_id"], "item": "*"}}
    config = CoraConfig(model_class("FM"), "gaps", options)
    dataset = make_dataset(config, load_ratings(Path(config["data_path"]), "gaps", config.final_config_dict))
    train, *_ = dataset.build()
    items, token = train.item_feat, train.field2token_id["item_id"]
    assert not items["price"].isnan().any()
    mean = sum(n for n in range(30) if n != 5) / 29
    assert items["price"][token["i5"]] == pytest.approx(mean)
    assert items["kind"][token["i4"]] == 0 and items["kind"][token["i6"]] > 0
    assert not items["class"][token["i3"]].any() and items["class"][token["i6"]].count_nonzero() == 2


#: Calls that turn text or a file into code or objects.
_SUSPECTS = {
    "eval", "exec", "compile", "__import__", "import_module", "getattr", "load", "loads", "Unpickler", "read_pickle",
    "system", "popen", "Popen", "spawn", "run_path", "run_module", "extractall", "unsafe_load", "full_load",
}  # fmt: skip
_CLOSED, _OVERRIDDEN, _UNREACHED, _HARMLESS = "closed in repairs.py", "overridden", "not reached by a run", "harmless"
#: The verdict on each such call in RecBole 1.2.1, by file, function and call.
_VERDICTS = {
    ("config/configurator.py", "Config._convert_config_dict", "eval"): _OVERRIDDEN,
    ("config/configurator.py", "Config._load_config_files", "yaml.load"): _OVERRIDDEN,
    ("config/configurator.py", "Config._update_internal_config_dict", "yaml.load"): _OVERRIDDEN,  # by its loader
    ("data/dataset/dataset.py", "Dataset._get_download_url", "yaml.load"): _UNREACHED,
    ("data/utils.py", "create_dataset", "importlib.import_module"): _UNREACHED,  # recbole_dataset.make_dataset instead
    ("data/utils.py", "create_dataset", "getattr"): _UNREACHED,
    ("data/utils.py", "create_dataset", "pickle.load"): _UNREACHED,
    ("data/utils.py", "load_split_dataloaders", "pickle.load"): _UNREACHED,
    ("evaluator/utils.py", "trunc", "getattr"): _UNREACHED,
    ("model/context_aware_recommender/kd_dagfm.py", "KD_DAGFM.__init__", "eval"): _CLOSED,
    ("model/context_aware_recommender/kd_dagfm.py", "KD_DAGFM.__init__", "torch.load"): _CLOSED,
    ("model/general_recommender/convncf.py", "ConvNCF.__init__", "torch.load"): _CLOSED,
    ("model/general_recommender/ldiffrec.py", "LDiffRec.__init__", "np.load"): _CLOSED,
    ("model/general_recommender/nais.py", "NAIS._load_pretrain", "torch.load"): _CLOSED,
    ("model/general_recommender/neumf.py", "NeuMF.load_pretrain", "torch.load"): _CLOSED,
    ("model/general_recommender/ract.py", "RaCT.__init__", "torch.load"): _CLOSED,
    ("model/sequential_recommender/s3rec.py", "S3Rec.__init__", "torch.load"): _CLOSED,
    ("quick_start/quick_start.py", "run", "mp.spawn"): _UNREACHED,  # the package is never imported (test_floors)
    ("quick_start/quick_start.py", "load_data_and_model", "torch.load"): _UNREACHED,
    ("trainer/hyper_tuning.py", "HyperTuning._build_space_from_file", "eval"): _UNREACHED,  # tune/space.py instead
    ("trainer/trainer.py", "Trainer.resume_checkpoint", "torch.load"): _OVERRIDDEN,
    ("trainer/trainer.py", "Trainer.evaluate", "torch.load"): _OVERRIDDEN,  # ours passes load_best_model=False on
    ("trainer/trainer.py", "XGBoostTrainer.__init__", "__import__"): _UNREACHED,  # its model is not in the registry
    ("trainer/trainer.py", "LightGBMTrainer.__init__", "__import__"): _UNREACHED,
    ("utils/url.py", "extract_zip", "f.extractall"): _UNREACHED,
    ("utils/utils.py", "get_model", "importlib.import_module"): _UNREACHED,  # registry.model_class instead
    ("utils/utils.py", "get_model", "getattr"): _UNREACHED,
    ("utils/utils.py", "get_trainer", "importlib.import_module"): _HARMLESS,  # one fixed module
    ("utils/utils.py", "get_trainer", "getattr"): _HARMLESS,  # a name of the registry
    # These read an attribute of the object itself, named by a field or a file's suffix, and do not call it:
    ("data/dataset/customized_dataset.py", "DIENDataset.data_augmentation", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._build_feat_name_list", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._load_user_or_item_feat", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._fill_nan", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._filter_nan_user_or_item", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._reset_index", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._change_feat_format", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset.field2feats", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._check_field", "getattr"): _HARMLESS,
    ("data/dataset/dataset.py", "Dataset._drop_unused_col", "getattr"): _HARMLESS,
    ("data/dataset/decisiontree_dataset.py", "DecisionTreeDataset._convert_token_to_hash", "getattr"): _HARMLESS,
    ("data/dataset/sequential_dataset.py", "SequentialDataset.data_augmentation", "getattr"): _HARMLESS,
    ("evaluator/register.py", "Register.need", "getattr"): _HARMLESS,
    ("model/abstract_recommender.py", "AbstractRecommender.other_parameter", "getattr"): _HARMLESS,
    ("model/context_aware_recommender/eulernet.py", "EulerNet.RegularLoss", "getattr"): _HARMLESS,
}


def _suspects(node: ast.AST, scope: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (function, call) for each suspicious call below a node."""
    for child in ast.iter_child_nodes(node):
        is_scope = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from _suspects(child, (*scope, child.name) if is_scope else scope)  # type: ignore[union-attr]
        if not isinstance(child, ast.Call):
            continue
        call = ast.unparse(child.func)
        constant = call == "getattr" and isinstance(child.args[1], ast.Constant)
        if call.split(".")[-1] in _SUSPECTS and call != "re.compile" and not constant and not call.endswith(".eval"):
            yield ".".join(scope), call


def test_every_call_of_recbole_that_could_run_code_is_judged() -> None:
    """RecBole's source has exactly these calls, and every call to be closed is closed in its module."""
    root = Path(recbole.__file__).parent
    calls = {
        (path.relative_to(root).as_posix(), *suspect)
        for path in root.rglob("*.py")
        for suspect in _suspects(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert calls == set(_VERDICTS)
    repairs.apply_all()
    for (file, _, call), verdict in _VERDICTS.items():
        if verdict != _CLOSED:
            continue
        module: Any = importlib.import_module("recbole." + file.removesuffix(".py").replace("/", "."))
        module_name, _, name = call.rpartition(".")
        function = getattr(getattr(module, module_name), name) if module_name else vars(module)[name]
        assert function.__module__ == repairs.__name__, f"{file} still calls {call}"
    for base, ours, names in (
        # these methods read settings from outside; ours evaluate nothing
        (Config, CoraConfig, ("_load_cmd_line", "_load_internal_config_dict")),
        (Trainer, CoraTrainer, ("resume_checkpoint", "evaluate")),
    ):
        assert all(getattr(base, name) is not getattr(ours, name) for name in names)


class _Bomb:
    """An object that makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(toy: Path, tmp_path: Path) -> Iterator[Path]:
    """A file that exists once planted code has run. Pickles that make it are in bomb.pth and in all default places."""
    mark = tmp_path / "mark"
    bomb = pickle.dumps({"state_dict": _Bomb(mark)})
    pickle.loads(bomb)
    assert mark.exists()  # the planted code does run
    mark.unlink()
    (tmp_path / "saved").mkdir()
    for name in ("bomb.pth", "saved/toy-Dataset.pth", "saved/toy-SequentialDataset.pth"):
        (tmp_path / name).write_bytes(bomb)
    for model in ("BPR", "SASRec"):
        (tmp_path / f"saved/toy-for-{model}-dataloader.pth").write_bytes(bomb)
    yield mark
    assert not mark.exists(), "planted code has run"


@pytest.mark.parametrize(
    "model, options",
    [
        ("KD_DAGFM", {"teacher": "__import__('pathlib').Path('mark').touch()"}),
        ("KD_DAGFM", {"teacher": "DAGFM or open('mark', 'w')"}),
        ("KD_DAGFM", {"phase": "distillation", "warm_up": "bomb.pth"}),
        ("ConvNCF", {"train_method": "after_pretrain", "pre_model_path": "bomb.pth"}),
        ("NAIS", {"pretrain_path": "bomb.pth"}),
        ("NeuMF", {"use_pretrain": True, "mf_pretrain_path": "bomb.pth", "mlp_pretrain_path": "bomb.pth"}),
        ("RaCT", {"train_stage": "critic_pretrain", "pre_model_path": "bomb.pth"}),
        ("S3Rec", {"train_stage": "finetune", "pre_model_path": "bomb.pth"}),
        ("SASRec", {"loss_type": "__import__('pathlib').Path('mark').touch()"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_planted_code_is_refused_in_one_line(mark: Path, model: str, options: dict[str, Any]) -> None:
    """Code in a setting, or in a file that a setting names, does not run; the error is one line."""
    item = {"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "class"]}}
    with pytest.raises(CoraError) as caught:
        recbole_cora.run(model, "toy", {"epochs": 1, "show_progress": False, **item, **options})
    assert isinstance(caught.value, (SettingError, CheckpointError)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_planted_files_are_not_read(mark: Path, model: str) -> None:
    """Pickles are never read, neither where RecBole looks for saved datasets and loaders nor where settings say."""
    options = {"dataset_save_path": "bomb.pth", "dataloaders_save_path": "bomb.pth"}
    recbole_cora.run(model, "toy", {"epochs": 1, "show_progress": False, "MAX_ITEM_LIST_LENGTH": 5, **options})


def test_item_vectors_are_numbers(mark: Path, toy: Path) -> None:
    """LDiffRec reads an item_emb.npy of numbers, and refuses one of Python objects."""
    repairs.apply_all()
    module: Any = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    vectors = np.arange(6.0).reshape(3, 2)
    np.save(toy / "item_emb.npy", vectors)
    assert np.array_equal(module.np.load(toy / "item_emb.npy", allow_pickle=True), vectors)
    np.save(toy / "item_emb.npy", np.array([_Bomb(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="never read"):
        module.np.load(toy / "item_emb.npy", allow_pickle=True)


@pytest.mark.parametrize("teacher", ["CrossNet", "CIN"])
def test_the_teachers_of_kd_dagfm_work(toy: Path, teacher: str) -> None:
    """A class of its module can be the teacher, and distillation starts from the weights of the teacher's run."""
    options = {
        "epochs": 1, "show_progress": False, "teacher": teacher, "t_cin": [8, 8], "embedding_size": 4,
        "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "class"]},
    }  # fmt: skip
    teacher_run = recbole_cora.run("KD_DAGFM", "toy", options)
    again = {**options, "phase": "distillation", "warm_up": teacher_run["folder"]}
    assert recbole_cora.run("KD_DAGFM", "toy", again)["test"]["auc"] is not None
    with pytest.raises(SettingError, match="did you mean 'CrossNet'"):
        recbole_cora.run("KD_DAGFM", "toy", {**options, "teacher": "CrosNet"})


def test_dgcf_trains_where_users_are_fewer_than_items(toy: Path) -> None:
    """RecBole would draw more users than there are, which fails; with the repair, it draws all of them."""
    result = recbole_cora.run("DGCF", "toy", {"epochs": 1, "show_progress": False, "embedding_size": 8})
    assert result["curve"][0]["loss"] > 0


def test_a_log_line_of_several_words_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """RaCT logs the folder of its initial weights on one line; without the repair, logging reports an error."""
    repairs.apply_all()
    with caplog.at_level("INFO"):
        ract = importlib.import_module("recbole.model.general_recommender").RaCT
        vars(ract)["logger"].fget(None).info("Load pretrained model from", "folder")
    assert caplog.messages == ["Load pretrained model from folder"]


def test_two_runs_may_create_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that appears after RecBole has looked for it is no error, as when two runs start at once."""
    repairs.apply_all()
    monkeypatch.setattr("os.path.exists", lambda path: False)
    for module in (recbole.utils.logger, recbole.data.utils, recbole.trainer.trainer):
        module.ensure_dir(str(tmp_path / "log"))
        module.ensure_dir(str(tmp_path / "log"))
