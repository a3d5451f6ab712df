"""Settings of this package's models, one frozen dataclass per model: properties/model/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from recbole_cora.errors import SettingError
from recbole_cora.settings.kinds import SettingValues, setting

#: Training settings of the replication, for every model that trains with an LLM. A "step" is a batch.
_LLM_TRAINING: dict[str, Any] = {
    "learner": "adamw", "learning_rate": 0.001, "weight_decay": 0.001, "train_batch_size": 16, "eval_batch_size": 512,
    "steps_per_epoch": 100, "epochs": 200, "stopping_step": 20, "warmup_steps": 200, "valid_fraction": 0.5,
}  # fmt: skip


class Model:
    """Base of a model's settings.

    Attributes:
        needs: names of the parts that the model is built from (see `recbole_cora.parts`).
        defaults: the model's own defaults for settings that every model has.
        kind: RecBole's kind of model: general, context, sequential or knowledge.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[SettingValues] = {}
    kind: ClassVar[str] = "general"


@dataclass(frozen=True)
class CoRA(Model):
    """CoRA (recbole_cora/models/cora.py). Defaults are the paper's; llm/tiny.yaml scales them down for the tiny LLM."""

    needs = frozenset({"llm", "encoder"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING, "train_batch_size": 8}

    weights_on: str = setting(
        "prompt",
        "Tokens on which the weights act. prompt: all, as in the paper; question: those after the history, so that the "
        "history is read once for all candidate items. Train and score with the same value.",
        one_of=("prompt", "question"),
    )
    prefix_cache_mb: int = setting(
        1024,
        "Memory for the keys and values of histories, in MiB; used only with weights_on: question.",
        least=0,
        shapes_results=False,
    )
    queries: int = setting(4, "k, the number of learnable queries.", least=1)
    blocks: int = setting(8, "Blocks of self-attention, cross-attention and feed-forward.", least=1)
    heads: int = setting(8, "Attention heads per block; must divide hidden.", least=1)
    hidden: int = setting(512, "h, the width of a block.", least=1)
    feed_forward: int = setting(3072, "Width of a block's feed-forward network.", least=1)
    generator_dropout: float = setting(0.1, "Dropout within the blocks.", least=0, below=1)
    rank: int = setting(16, "r, the rank of the collaborative weights.", least=1)
    weight_types: str = setting(
        "qkvo", "Weight types to generate; Table 4 has qkvof, qkvo, qkv, qko and qk. f: the MLP's up and down.",
        letters="qkvof",
    )  # fmt: skip
    alpha_over_rank: float = setting(2.0, "Scale of the collaborative weights.", above=0)
    delta_dropout: float = setting(0.05, "Dropout on x before A.", least=0, below=1)

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise SettingError(f"hidden is {self.hidden}; expected a multiple of heads, which is {self.heads}")


@dataclass(frozen=True)
class ICL(Model):
    """ICL (recbole_cora/models/icl.py). Nothing is trained."""

    needs = frozenset({"llm"})
    defaults: ClassVar[SettingValues] = {"eval_batch_size": 512}


@dataclass(frozen=True)
class LateFusion(Model):
    """LateFusion (recbole_cora/models/late_fusion.py): a regression of the LLM's score and the encoder's."""

    needs = frozenset({"llm", "encoder"})
    defaults: ClassVar[SettingValues] = {"eval_batch_size": 512, "cf_evidence": ["score"]}

    fusion_rows: int | None = setting(
        2000,
        "Train rows that the regression is fitted on, drawn by the seed; ~: all. The LLM reads their prompts.",
        least=2,
    )


@dataclass(frozen=True)
class TALLRec(Model):
    """TALLRec (recbole_cora/models/tallrec.py)."""

    needs = frozenset({"llm", "lora"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING, "learning_rate": 0.0001}


@dataclass(frozen=True)
class Prompt4NR(Model):
    """Prompt4NR (recbole_cora/models/prompt4nr.py)."""

    needs = frozenset({"llm", "lora"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING, "learning_rate": 0.0001}


@dataclass(frozen=True)
class PersonPrompt(Model):
    """PersonPrompt (recbole_cora/models/personprompt.py)."""

    needs = frozenset({"llm"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING, "learning_rate": 0.01}

    init_std: float = setting(
        0.1, "Standard deviation of the initial vectors around the mean token embedding, as a multiple of the token "
        "embeddings' spread.",
        least=0,
    )  # fmt: skip


@dataclass(frozen=True)
class CoLLM(Model):
    """CoLLM, stage 2 (recbole_cora/models/collm.py). lora_config sets stage 1, a TALLRec."""

    needs = frozenset({"llm", "encoder", "tallrec"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING}


@dataclass(frozen=True)
class BinLLM(Model):
    """BinLLM, last stage (recbole_cora/models/binllm.py). codes_config and lora_config set the other stages."""

    needs = frozenset({"llm", "codes", "tallrec"})
    defaults: ClassVar[SettingValues] = {**_LLM_TRAINING, "learning_rate": 0.0001}


@dataclass(frozen=True)
class BinaryCodes(Model):
    """BinaryCodes (recbole_cora/models/binary_codes.py)."""

    needs = frozenset({"encoder"})
    defaults: ClassVar[SettingValues] = {
        "learning_rate": 0.001, "weight_decay": 0.0001, "train_batch_size": 1024, "epochs": 50, "stopping_step": 8,
    }  # fmt: skip

    bits: int = setting(32, "Bits per code.", least=1, most=256)


@dataclass(frozen=True)
class MF(Model):
    """MF (recbole_cora/models/mf.py)."""

    defaults: ClassVar[SettingValues] = {
        "learning_rate": 0.001, "weight_decay": 0.0001, "train_batch_size": 1024, "epochs": 100, "stopping_step": 8,
    }  # fmt: skip

    embedding_size: int = setting(256, "c; the paper uses 256.", least=1)
    bias: bool = setting(True, "Learn user, item and global biases. The paper's MF has none (--bias=False).")
    init_std: float | None = setting(
        0.01, "Standard deviation of the initial embeddings; ~ keeps RecBole's Xavier initialisation.", above=0
    )


@dataclass(frozen=True)
class LGCN(Model):
    """LGCN (recbole_cora/models/lgcn.py)."""

    defaults: ClassVar[SettingValues] = {
        "learning_rate": 0.005, "weight_decay": 0.0, "train_batch_size": 4096, "epochs": 60, "stopping_step": 6,
    }  # fmt: skip

    embedding_size: int = setting(256, "c; the paper uses 256.", least=1)
    n_layers: int = setting(2, "Propagation layers; the paper uses 2.", least=0)
    reg_weight: float = setting(0.0001, "L2 penalty on the embeddings of a batch's users and items.", least=0)


@dataclass(frozen=True)
class SAS(Model):
    """SAS (recbole_cora/models/sas.py)."""

    kind = "sequential"
    defaults: ClassVar[SettingValues] = {
        "MAX_ITEM_LIST_LENGTH": 25, "learning_rate": 0.001, "weight_decay": 0.0001, "train_batch_size": 1024,
        "epochs": 20, "stopping_step": 2,
    }  # fmt: skip

    n_layers: int = setting(2, "Transformer layers.", least=0)
    n_heads: int = setting(2, "Attention heads; must divide hidden_size.", least=1)
    hidden_size: int = setting(64, "c; the paper's 256 takes minutes per epoch on a CPU.", least=1)
    inner_size: int = setting(256, "Width of the feed-forward network.", least=1)
    hidden_dropout_prob: float = setting(0.5, "Dropout on hidden states.", least=0, below=1)
    attn_dropout_prob: float = setting(0.5, "Dropout on attention weights.", least=0, below=1)
    hidden_act: str = setting("gelu", "Activation.", one_of=("gelu", "relu", "swish", "tanh", "sigmoid"))
    layer_norm_eps: float = setting(1e-12, "Added to the variance in layer normalisation.", above=0)
    initializer_range: float = setting(0.02, "Standard deviation of the initial weights.", above=0)
    loss_type: str = setting(
        "BPR",
        "Required by RecBole's constructor, but has no effect: the loss is always binary cross-entropy.",
        one_of=("BPR", "CE"),
    )

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise SettingError(
                f"hidden_size is {self.hidden_size}; expected a multiple of n_heads, which is {self.n_heads}"
            )


@dataclass(frozen=True)
class Averages(Model):
    """Averages (recbole_cora/models/averages.py)."""

    defaults: ClassVar[SettingValues] = {"train_batch_size": 65536}

    pseudo_rows: float = setting(5.0, "Rows with the global mean label to add to each user and item.", above=0)


@dataclass(frozen=True)
class HistoryFeatures(Model):
    """HistoryFeatures (recbole_cora/models/history_features.py)."""

    folds: int = setting(4, "Folds of the train rows; the features of each fold come from the other folds.", least=2)
    strength: float = setting(1.0, "Inverse strength of the regression's L2 penalty, scikit-learn's C.", above=0)


@dataclass(frozen=True)
class SASRec(Model):
    """RecBole's SASRec, with a shorter history and less patience: RecBole's defaults take an hour on two CPU cores."""

    kind = "sequential"
    defaults: ClassVar[SettingValues] = {"MAX_ITEM_LIST_LENGTH": 25, "stopping_step": 3}


#: Every model of this package, and RecBole's SASRec, which has other defaults here.
MODELS: dict[str, type[Model]] = {
    group.__name__: group
    for group in (
        CoRA, ICL, LateFusion, TALLRec, Prompt4NR, PersonPrompt, CoLLM, BinLLM, BinaryCodes,
        MF, LGCN, SAS, Averages, HistoryFeatures, SASRec,
    )
}  # fmt: skip
