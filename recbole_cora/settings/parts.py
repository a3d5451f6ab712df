"""Settings of the parts that models are built from: properties/parts/. A model has the settings of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recbole_cora.settings.kinds import setting

ENCODERS = ("MF", "LGCN", "SAS", "BPR", "SASRec")
EVIDENCE = ("score", "averages", "colikes", "taste")
VECTORS = ("own", "zeroed", "shuffled", "random")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LLM:
    """The frozen LLM of a model that reads prompts, and its prompts (recbole_cora/parts/llm.py)."""

    file: ClassVar[str] = "llm"
    needed_for: ClassVar[frozenset[str]] = frozenset({"llm"})

    llm: str = setting(
        "auto",
        "Hub id, folder or GGUF file; smollm2: SmolLM2-135M-Instruct from an installed package; tiny: a small LLM "
        "trained on the spot; auto: Vicuna-7B if a GPU and its weights are available, else tiny.",
    )
    llm_revision: str | None = setting(None, "Branch, tag or commit of a hub model.")
    dtype: str = setting(
        "auto",
        "Number format of the LLM. auto: bfloat16 if the processor or GPU is fast at it, else float32. The generator "
        "and the loss are always in float32.",
        one_of=DTYPES,
    )
    quantised: str | None = setting(
        None, "Load the LLM's weights in 4 or 8 bits, with bitsandbytes.", one_of=("4bit", "8bit")
    )
    device_map: str | None = setting(
        None, "How accelerate spreads the LLM over the available devices.", one_of=("auto", "balanced", "sequential"),
        shapes_results=False,
    )  # fmt: skip
    offload_folder: str | None = setting(
        None, "Folder for weights that fit on no device; used with device_map.", shapes_results=False
    )
    trust_remote_code: bool = setting(False, "Run code that comes with a hub model.", shapes_results=False)
    allow_pickle: bool = setting(
        False, "Load an LLM's weights from pickle files if it has no safetensors.", shapes_results=False
    )
    llm_modules: dict[str, object] | None = setting(
        None, "Module paths of an LLM family that is not in recbole_cora/llm/families.py."
    )
    llm_batch_tokens: int | None = setting(
        None,
        "Tokens per forward pass of the LLM; ~: 1024 on a CPU, 4096 on a GPU or for an LLM with d <= 256.",
        least=1, shapes_results=False,
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, "Recompute each block's activations in the backward pass: less memory, but slower.", shapes_results=False
    )
    tiny_hidden: int = setting(128, "d of the tiny LLM; each attention head has width 32.", least=8)
    tiny_layers: int = setting(2, "Decoder blocks of the tiny LLM.", least=1)
    tiny_steps: int = setting(50, "Training steps of the tiny LLM as a plain language model.", least=0)
    template: str | None = setting(
        None, "movies, books, items, or the path of a text file; ~: the dataset's template, else items."
    )
    chat_template: str = setting(
        "auto",
        "on: the prompt is a user's turn in the tokenizer's chat template; off: plain text; auto: on if the tokenizer "
        "has a chat template.",
        one_of=("auto", "on", "off"), neutral="auto",
    )  # fmt: skip
    answer_score: str = setting(
        "difference",
        "difference: the Yes logit minus the No logit; yes: the Yes logit alone, as in the replication.",
        one_of=("difference", "yes"),
    )
    show_titles: bool = setting(
        True, 'False: prompts show no titles, neither of the history nor of the target ("ID only", Fig. 6).'
    )


@dataclass(frozen=True)
class Encoder:
    """The frozen CF encoder of a model that takes CF embeddings (recbole_cora/parts/encoder.py)."""

    file: ClassVar[str] = "encoder"
    needed_for: ClassVar[frozenset[str]] = frozenset({"encoder", "codes"})

    cf_encoder: str = setting(
        "LGCN",
        "CF model whose embeddings are e_u and e_i (see recbole_cora/cf/encoder.py).",
        one_of=ENCODERS,
    )
    cf_config: dict[str, object] = setting({}, "Settings for training the encoder, e.g. {learning_rate: 0.01}.")
    cf_presets: dict[str, object] = setting(
        {}, "Settings for training each encoder, overridden by cf_config: {MF: {...}, SAS: {...}}."
    )
    cf_checkpoint: str | None = setting(None, "Folder of an earlier encoder run to use instead of training one.")
    cf_evidence: list[str] = setting(
        [],
        "Evidence to read besides e_u and e_i (recbole_cora/cf/evidence.py); all: every kind. The paper uses none.",
        one_of=EVIDENCE, word="all",
    )  # fmt: skip
    cf_folds: int = setting(4, "Folds of the train rows for out-of-fold evidence.", least=2)
    cf_dropout: float = setting(0.0, "Dropout on e_u and e_i during training.", least=0, below=1)
    cf_vectors: str = setting(
        "own",
        "own: the encoder's e_u and e_i; zeroed, shuffled, random: a control instead (recbole_cora/cf/controls.py).",
        one_of=VECTORS,
    )


@dataclass(frozen=True)
class Codes:
    """Binary codes of CF embeddings in the prompt (recbole_cora/models/binary_codes.py)."""

    file: ClassVar[str] = "codes"
    needed_for: ClassVar[frozenset[str]] = frozenset({"codes"})

    bits: int = setting(32, "Bits per code.", least=1, most=256)
    code_format: str = setting(
        "dotted",
        "dotted: one number per eight bits, as in 172.16.254.1; bits: zeros and ones.",
        one_of=("dotted", "bits"),
    )
    codes_config: dict[str, object] = setting({}, "Settings for training the codes.")


@dataclass(frozen=True)
class LoRA:
    """One LoRA shared by all pairs, built with peft (recbole_cora/llm/lora.py). The defaults are TALLRec's."""

    file: ClassVar[str] = "lora"
    needed_for: ClassVar[frozenset[str]] = frozenset({"lora", "tallrec"})

    lora_rank: int = setting(8, "r, the rank of the LoRA.", least=1)
    lora_alpha: float = setting(16.0, "The LoRA is scaled by alpha / r.", above=0)
    lora_dropout: float = setting(0.05, "Dropout on x before A.", least=0, below=1)
    lora_types: str = setting("qv", "Weight types that get a LoRA; letters as in weight_types.", letters="qkvof")


@dataclass(frozen=True)
class TALLRecStage:
    """Stage 1 of CoLLM and BinLLM: a trained TALLRec (recbole_cora/parts/ready.py)."""

    file: ClassVar[str] = "tallrec"
    needed_for: ClassVar[frozenset[str]] = frozenset({"tallrec"})

    lora_config: dict[str, object] = setting({}, "Settings for training TALLRec, e.g. {learning_rate: 0.0003}.")
    lora_checkpoint: str | None = setting(None, "Folder of an earlier TALLRec run to use instead of training one.")


PARTS = (LLM, Encoder, Codes, LoRA, TALLRecStage)
