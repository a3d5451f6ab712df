"""Every model that RecBole exports trains and is scored on a toy dataset with all fields, or one line says why not.

The dataset is `tests.conftest`'s toy dataset with user and item features of every type, and with a knowledge graph in
which three items have no entity.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import KnowledgeBasedDataset
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, get_trainer
from torch import nn

from recbole_cora import metrics, repairs, run
from recbole_cora.data.ratings import load_ratings
from recbole_cora.data.recbole_needs import one_line
from recbole_cora.errors import CheckpointError, CoraError, DataError, SettingError
from recbole_cora.metrics import scores_are_logits
from recbole_cora.models.averages import Averages
from recbole_cora.registry import model_class, recbole_models
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training import loss_in_parts
from recbole_cora.training.stage import Stage
from tests.conftest import ITEMS, USERS, write_toy

ITEM, USER = ["item_id", "class", "year", "brand", "vec"], ["user_id", "age", "gender", "likes", "taste"]
INTER = ["user_id", "item_id"]
SMALL: dict[str, Any] = {
    "epochs": 1, "pretrain_epochs": 1, "show_progress": False, "MAX_ITEM_LIST_LENGTH": 6, "learner": "sgd",
    "load_col": {"inter": INTER, "item": ITEM, "user": USER}, "numerical_features": ["age", "year", "vec", "taste"],
}  # fmt: skip
#: Settings that some models need in addition.
_CANDIDATES = {"reranker_CAN_NUM": 10}
_VECTORS = {
    "additional_feat_suffix": ["ent", "rel"], "preload_weight": {"ent_id": "ent_vec", "rel_id": "rel_vec"},
    "load_col": {"inter": INTER, "ent": ["ent_id", "ent_vec"], "rel": ["rel_id", "rel_vec"]},
    "alias_of_entity_id": ["ent_id"], "alias_of_relation_id": ["rel_id"], "numerical_features": [],
}  # fmt: skip
MORE = {
    "FwFM": {"numerical_features": ["age", "year"]},
    "GRU4RecCPR": _CANDIDATES,
    "SASRecCPR": _CANDIDATES,
    "GRU4RecKG": _VECTORS,
    "KSR": _VECTORS,
}
NO_FEATURES = {"load_col": {"inter": INTER}, "numerical_features": []}
#: Packages that some models need and that are not among this package's dependencies.
PACKAGES = {"KGAT": "dgl", "KGIN": "torch_scatter", "MCCLK": "torch_scatter", "NCL": "faiss"}
MODELS = recbole_models()


def write_full(folder: Path, name: str = "full", **changes: str | None) -> Path:
    """Write the toy dataset with every kind of file and field."""
    files = {
        "item": [
            "item_id:token\ttitle:token_seq\tclass:token_seq\tyear:float\tbrand:token\tvec:float_seq",
            *(f"i{n}\tTitle {n}\tc{n % 3} c{n % 5}\t{n / 30}\tb{n % 4}\t{n / 30} 0.5" for n in range(ITEMS)),
        ],
        "user": [
            "user_id:token\tage:float\tgender:token\tlikes:token_seq\ttaste:float_seq",
            *(f"u{n}\t{n / 12}\tg{n % 2}\tx{n % 3} y{n % 2}\t{n / 12} 0.5" for n in range(USERS)),
        ],
        "link": ["item_id:token\tentity_id:token", *(f"i{n}\te{n}" for n in range(ITEMS - 3))],
        "kg": [
            "head_id:token\trelation_id:token\ttail_id:token",
            *(f"e{n}\tr{n % 3}\tx{n % 6}" for n in range(ITEMS)),
            *(f"x{n % 6}\tr3\te{(n + 5) % ITEMS}" for n in range(ITEMS)),
        ],
        "ent": ["ent_id:token\tent_vec:float_seq", *(f"e{n}\t{_vector(n, 7)}" for n in range(ITEMS))],
        "rel": ["rel_id:token\trel_vec:float_seq", *(f"r{n}\t{_vector(n, 5)}" for n in range(4))],
    }
    texts = {suffix: "\n".join(lines) + "\n" for suffix, lines in files.items()}
    return write_toy(folder, name, **{**texts, **changes})


def _vector(n: int, period: int) -> str:
    return " ".join(f"{(n + k) % period / period:.3f}" for k in range(64))


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that contains dataset/full; returns the path of dataset/full."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return write_full(tmp_path / "dataset")


def options_for(model: str, **changes: Any) -> dict[str, Any]:
    """Return small settings without dropout, so that a loss does not depend on how its batch is split."""
    repairs.apply_all()
    metrics.register()
    config = CoraConfig(model_class(model), "full")
    rates = {key: config[key] for key in config.allowed_keys if "drop" in key}
    no_dropout = {key: [0.0] * len(rate) if isinstance(rate, list) else 0.0 for key, rate in rates.items()}
    small = {key: value for key, value in SMALL.items() if key in config.allowed_keys}
    return {**small, **MORE.get(model, {}), **no_dropout, **changes}


def stage_of(model: str, **changes: Any) -> Stage:
    config = CoraConfig(model_class(model), "full", options_for(model, **changes))
    return Stage(config, load_ratings(Path(config["data_path"]), "full", config.final_config_dict))


def direct_logloss(path: Path, *, logits: bool) -> float:
    """Return the binary cross-entropy of a scores.csv, computed row by row."""
    with path.open(encoding="utf-8") as file:
        rows = [(float(row["label"]), float(row["logit" if logits else "probability"])) for row in csv.DictReader(file)]
    if not logits:
        assert all(0 <= score <= 1 for _, score in rows)
    total = 0.0
    for label, score in rows:
        if logits:
            total += np.log1p(np.exp(-abs(score))) + max(score, 0.0) - label * score
        else:
            total -= np.log(score if label else 1 - score)
    return total / len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MODELS))
def test_each_model_trains_is_scored_and_reads_batches_in_parts_or_says_why_not(full: Path, model: str) -> None:
    """It trains on all fields, and its LogLoss is that of its scores, which are in [0, 1] if they are probabilities.

    With batches in two parts, the first step has the same loss and training leads to the same scores, or the model is
    refused by name.
    """
    package = PACKAGES.get(model)
    if package and importlib.util.find_spec(package) is None:
        with pytest.raises(SettingError, match=f"{model} needs the package '{package}'.*pip install"):
            run(model, "full", options_for(model))
        return
    result = run(model, "full", options_for(model, save_scores=True))
    direct = direct_logloss(Path(result["folder"]) / "scores.test.csv", logits=scores_are_logits(MODELS[model]))
    assert result["test"]["logloss"] == pytest.approx(direct, abs=1e-6)
    try:
        parts = run(model, "full", options_for(model, gradient_accumulation=2))
    except SettingError as error:
        assert str(error).startswith(f"{model} ") and "\n" not in str(error)
        assert ", so it cannot be trained with gradient_accumulation: 2; use" in str(error)
    else:
        assert parts["curve"][0]["loss"] == pytest.approx(result["curve"][0]["loss"], rel=1e-4)
        assert parts["test"]["logloss"] == pytest.approx(result["test"]["logloss"], abs=1e-4)


@pytest.mark.parametrize(
    "model, reason",
    [
        ("BPR", None), ("FM", None), ("SASRec", None), ("LightGCN", None), ("NeuMF", None), ("AutoInt", None),
        ("MF", None), ("SAS", None), ("LGCN", "not a mean"),
        ("CDAE", "not a mean"), ("SGL", "not a mean"), ("ConvNCF", "not a mean"), ("ENMF", "not a mean"),
        ("BERT4Rec", "not a mean"),
        ("RecVAE", "RecVAETrainer"), ("MKR", "MKRTrainer"), ("CKE", "KGTrainer"), ("KTUP", "KGTrainer"),
        ("CFKG", "KGTrainer"), ("DCN", "normalises"), ("MultiVAE", "counts its calls"), ("DiffRec", "random numbers"),
    ],
)  # fmt: skip
def test_losses_that_are_no_means_over_rows_are_known(full: Path, model: str, reason: str | None) -> None:
    """A model whose loss would change in parts is refused, such as a sum, or a loss of the trainer's own.

    Measuring does not change weights, random states or the loader's order.
    """
    stage = stage_of(model)
    weights = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    generator = getattr(stage.train, "generator", None)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), generator and generator.get_state())
    trainer = get_trainer(stage.config["MODEL_TYPE"], model)
    refusal = loss_in_parts.reason_to_refuse(stage.model, trainer, stage.train, torch.device("cpu"))
    assert refusal is None if reason is None else reason in (refusal or "")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stage.model.state_dict().items())
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    assert generator is None or torch.equal(before[2], generator.get_state())


@pytest.mark.parametrize("loss, reason", [("tuple", "tuple"), ("sum", "not a mean"), ("mean", None)])
def test_what_is_measured_is_the_loss_itself(loss: str, reason: str | None) -> None:
    """A tuple of losses (as NCL's, which needs faiss) and a sum are not means over rows."""

    class Model(nn.Linear):
        def calculate_loss(self, batch: torch.Tensor) -> Any:
            each = nn.functional.dropout(self(batch), 0.5, self.training).square().sum(1)
            return {"tuple": (each.mean(), each.mean()), "sum": each.sum(), "mean": each.mean()}[loss]

    torch.manual_seed(0)
    model = Model(4, 3)
    difference = loss_in_parts.difference(model, model.calculate_loss, torch.randn(20, 4))
    assert difference is None if reason is None else reason in (difference or "")


def test_auto_batches_are_refused_before_training(full: Path) -> None:
    """`train_batch_size: auto` may split batches, so the model is refused even if memory suffices."""
    with pytest.raises(SettingError, match=r"CDAE has a loss .* so it cannot be trained with train_batch_size: auto"):
        run("CDAE", "full", options_for("CDAE", train_batch_size="auto"))
    assert not list(Path("saved").glob("CDAE*"))


@pytest.mark.parametrize(
    "model, options, error",
    [
        *((model, NO_FEATURES, "'class'.*not loaded") for model in ("FDSA", "GRU4RecF", "S3Rec")),
        ("SASRecF", {"selected_features": ["color"]}, "'color'.*not loaded"),
        ("S3Rec", {"item_attribute": "brand"}, "token_seq"),
        ("DSSM", {"numerical_features": []}, "'age' is not there; add it"),
        ("FwFM", {"numerical_features": ["vec"]}, "leave 'vec' out of numerical_features"),
        ("GRU4RecCPR", {"reranker_CAN_NUM": 100}, "there are 31; set --reranker_CAN_NUM=15"),
        ("SASRecCPR", {"reranker_CAN_NUM": "50,20"}, "takes the best 50 items"),
        ("GRU4RecKG", {"preload_weight": None}, "vectors of the entity ids: a file full.ent"),
        ("KSR", {"alias_of_relation_id": None}, "vectors of the relation ids: a file full.rel"),
        ("KSR", {"kg_embedding_size": 32}, "set --kg_embedding_size=64"),
        ("S3Rec", {"train_stage": "finetune"}, "needs --pre_model_path="),
        ("RaCT", {"train_stage": "critic_pretrain"}, "needs --pre_model_path="),
        ("NeuMF", {"use_pretrain": True, "mf_pretrain_path": "x"}, "needs --mlp_pretrain_path="),
        ("ConvNCF", {"train_method": "after_pretrain"}, "needs --pre_model_path="),
        ("KD_DAGFM", {"phase": "finetuning"}, "needs --warm_up="),
        ("RaCT", {"train_stage": "critic_pretrain", "pre_model_path": "x"}, "best 100 items .metrics_k."),
        ("LDiffRec", {"n_cate": 2}, "item_emb.npy"),
        ("NNCF", {"neigh_info_method": "louvain"}, "needs the package 'community'"),
        ("BPR", {"log_wandb": True}, "needs the package 'wandb'"),
        ("SASRec", {"hidden_size": 63}, r"RecBole cannot build SASRec .*\(ValueError: "),
        ("BPR", {"additional_feat_suffix": ["nix"]}, r"RecBole cannot build BPR .*full.nix"),
    ],
)  # fmt: skip
def test_what_a_model_lacks_is_said_in_one_line(full: Path, model: str, options: dict[str, Any], error: str) -> None:
    """The error names the missing field, file, package or setting and the remedy; no run folder is left."""
    with pytest.raises(CoraError, match=error) as caught:
        run(model, "full", options_for(model, **options))
    assert isinstance(caught.value, (SettingError, DataError)) and "\n" not in str(caught.value)
    assert not list(Path("saved").glob(f"{model}*"))


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"kg": None}, "needs the file .*full.kg"),
        ({"link": None}, "needs the file .*full.link"),
        ({"kg": "head_id:token\ttail_id:token\ne1\te2\n"}, "no column 'relation_id:token'"),
        ({"link": "item_id:token\tentity_id:token\ni1\te1\ni2\te1\n"}, "'i1' and 'i2' to one entity, 'e1'"),
        ({"link": "item_id:token\tentity_id:token\ni1\tz1\n"}, "links no rated item"),
    ],
)
def test_a_broken_knowledge_graph_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], error: str
) -> None:
    """Missing files and columns are errors, and so are links that would lead to wrong entity ids."""
    monkeypatch.chdir(tmp_path)
    write_full(tmp_path / "dataset", **changes)
    with pytest.raises(DataError, match=error):
        run("CKE", "full", options_for("CKE"))


def test_an_error_of_our_models_is_not_hidden() -> None:
    """`one_line` converts errors of RecBole's models only, and leaves a CoraError as it is."""
    with pytest.raises(KeyError), one_line(Averages):
        raise KeyError("a bug of ours")
    with pytest.raises(CheckpointError), one_line(MODELS["BPR"]):
        raise CheckpointError("as it is")
    with pytest.raises(SettingError, match=r"cannot build BPR .*KeyError: 'a field'"), one_line(MODELS["BPR"]):
        raise KeyError("a field")


def test_a_knowledge_graph_changes_no_row(full: Path) -> None:
    """Rows of items without an entity stay, although RecBole drops them; linked items have their entities' ids."""
    stage = stage_of("CKE")
    dataset = stage._dataset
    assert isinstance(dataset, KnowledgeBasedDataset) and len(dataset.item2entity) == ITEMS - 3
    assert len(dataset.inter_feat) == len(stage.ratings)
    for item, entity in dataset.item2entity.items():
        assert dataset.token2id("item_id", item) == dataset.token2id("entity_id", entity)
    tokens = dataset.id2token("item_id", dataset.inter_feat["item_id"].numpy())
    assert tokens.tolist() == stage.ratings.item_tokens[stage.ratings.item].tolist()


def test_short_epochs_hold_batches_of_their_kind(full: Path) -> None:
    """With `steps_per_epoch`, MKR starts a new pass each time it switches between rows and triples."""
    options = options_for("MKR", epochs=4, steps_per_epoch=2, train_batch_size=40)
    assert len(run("MKR", "full", options)["curve"]) == 4


def test_dien_has_another_item_beside_each_of_the_history(full: Path) -> None:
    """Each item of the history has another item as its negative; padding has none."""
    rows = stage_of("DIEN").all_rows()
    history, negative = rows["item_id_list"], rows["neg_item_id_list"]
    assert torch.equal(history > 0, negative > 0) and (history > 0).any()
    assert not (history == negative)[history > 0].any()
    assert negative.max() <= ITEMS and len(negative.unique()) > ITEMS // 2


@pytest.mark.parametrize(
    "first, second, changes",
    [
        ("S3Rec", "S3Rec", {"train_stage": "finetune", "pre_model_path": "{}"}),
        ("RaCT", "RaCT", {"metrics_k": 20, "train_stage": "critic_pretrain", "pre_model_path": "{}"}),
        ("BPR", "ConvNCF", {"train_method": "after_pretrain", "pre_model_path": "{}"}),
        ("FISM", "NAIS", {"pretrain_path": "{}"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_begins_with_weights_of_an_earlier_run(
    full: Path, first: str, second: str, changes: dict[str, Any]
) -> None:
    """RecBole's two-stage trainings start from the weights in a run folder of this package."""
    folder = run(first, "full", options_for(first))["folder"]
    changes = {key: folder if value == "{}" else value for key, value in changes.items()}
    stage = stage_of(second, **changes)
    earlier = repairs._saved_weights(folder)["state_dict"]
    state = stage.model.state_dict()
    shared = [name for name in state if name in earlier and state[name].shape == earlier[name].shape]
    assert any(torch.equal(state[name], earlier[name]) and earlier[name].std() > 0 for name in shared)
    assert run(second, "full", options_for(second, **changes))["test"]["auc"] is not None


def test_pop_counts_liked_rows_and_keeps_them(full: Path) -> None:
    """A score is the item's number of liked train rows relative to the most liked item's, also after loading."""
    options = options_for("Pop", save_scores=True, train_batch_size=50)
    result = run("Pop", "full", options)
    ratings = stage_of("Pop").ratings
    train, test = ratings.rows("train"), ratings.rows("test")
    likes = np.bincount(ratings.item[train], ratings.label[train], minlength=len(ratings.item_tokens))
    for folder in (result["folder"], run("Pop", "full", {**options, "checkpoint": result["folder"]})["folder"]):
        with (Path(folder) / "scores.test.csv").open(encoding="utf-8") as file:
            scores = [float(row["logit"]) for row in csv.DictReader(file)]
        assert scores == pytest.approx(likes[ratings.item[test]] / likes.max())
    assert len(set(scores)) > 3


def test_scores_of_averages_are_probabilities_in_the_order_of_the_sums() -> None:
    """They are within (0, 1), equal the sum from 0.01 to 0.99, and rise strictly for sums from -1 to 2."""
    sums = torch.linspace(-1, 2, 30_001, dtype=torch.float64)
    model = Averages.__new__(Averages)
    nn.Module.__init__(model)
    model.USER_ID, model.ITEM_ID = "user", "item"
    model.user_mean, model.item_mean = sums, torch.zeros(1, dtype=torch.float64)
    model.mean = torch.zeros((), dtype=torch.float64)
    p = model.predict({"user": torch.arange(len(sums)), "item": torch.zeros(len(sums), dtype=torch.long)})
    assert p.min() > 0 and p.max() < 1 and (p.diff() > 0).all()
    inside = (sums >= 0.01) & (sums <= 0.99)
    assert torch.equal(p[inside], sums[inside])
    assert (p.float().double().diff() > 0).all()  # also as float32, the type in which scores are stored


def test_whether_scores_are_logits_is_read_from_predict() -> None:
    """A class's declaration comes first, then a sigmoid in `predict`; RippleNet is pointwise but returns logits."""

    class Sigmoid(GeneralRecommender):
        def predict(self, interaction: Any) -> Any:
            return torch.sigmoid(interaction)

    class Says(Sigmoid):
        scores_are_logits = True

    assert not scores_are_logits(Sigmoid) and scores_are_logits(Says)
    assert scores_are_logits(MODELS["RippleNet"]) and MODELS["RippleNet"].input_type == InputType.POINTWISE
    assert not scores_are_logits(MODELS["DCNV2"]) and scores_are_logits(MODELS["BPR"])
