"""Settings of the parts that models are built from: properties/parts/. A model has those of the parts that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
        "Hub id or folder; tiny: a small LM made on the spot; auto: Vicuna-7B where a GPU and its weights are at hand, "
        "else tiny.",
    )
    llm_revision: str | None = setting(None, "Branch, tag or commit of a hub model.")
    dtype: str = setting(
        "auto",
        "Number format of the LLM; auto: bfloat16 where the processor or GPU is fast at it, else float32. Generator "
        "and loss are always in float32.",
        one_of=DTYPES,
    )
    quantised: str | None = setting(
        None, "Weights of the LLM in 4 or 8 bits, by bitsandbytes.", one_of=("4bit", "8bit")
    )
    device_map: str | None = setting(
        None, "auto: accelerate spreads the LLM over the devices at hand.", one_of=("auto", "balanced", "sequential"),
        shapes_results=False,
    )  # fmt: skip
    offload_folder: str | None = setting(
        None, "With device_map: folder for what no device holds.", shapes_results=False
    )
    trust_remote_code: bool = setting(False, "Run code that comes with a hub model.", shapes_results=False)
    allow_pickle: bool = setting(
        False, "Take an LLM's weights from pickle files where it has no safetensors.", shapes_results=False
    )
    llm_modules: dict[str, Any] | None = setting(
        None, "Module paths of an LLM family that recbole_cora/llm/families.py does not know."
    )
    llm_batch_tokens: int | None = setting(
        None,
        "Tokens in one forward pass of the LLM; ~: 1024 on a CPU, 4096 on a GPU or for an LLM of d <= 256.",
        least=1, shapes_results=False,
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, "Compute each block's activations again in the backward pass: less memory, slower.", shapes_results=False
    )
    tiny_hidden: int = setting(128, "d of the tiny LLM; its heads are 32 wide.", least=8)
    tiny_layers: int = setting(2, "Decoder blocks of the tiny LLM.", least=1)
    tiny_steps: int = setting(50, "Training steps of the tiny LLM, as a plain language model.", least=0)
    template: str | None = setting(
        None, "movies, books, items, or a text file of your own; ~: the dataset's template, else items."
    )
    answer_score: str = setting(
        "difference",
        "difference: Yes minus No logit; yes: the Yes logit alone, as in the replication.",
        one_of=("difference", "yes"),
    )
    show_titles: bool = setting(True, 'False: no title in the prompt, neither history nor target ("ID only", Fig. 6).')


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
    cf_config: dict[str, Any] = setting({}, "Settings of the encoder's own training, e.g. {learning_rate: 0.01}.")
    cf_presets: dict[str, Any] = setting({}, "The same by encoder, below cf_config: {MF: {...}, SAS: {...}}.")
    cf_checkpoint: str | None = setting(None, "Folder of an earlier run of an encoder, instead of training one.")
    cf_evidence: list[str] = setting(
        [],
        "Numbers beside e_u and e_i (recbole_cora/cf/evidence.py); all: every one. The paper has none.",
        one_of=EVIDENCE, word="all",
    )  # fmt: skip
    cf_folds: int = setting(4, "Parts of the train rows, for evidence that is out of fold.", least=2)
    cf_dropout: float = setting(0.0, "Dropout on e_u and e_i in training.", least=0, below=1)
    cf_vectors: str = setting(
        "own", "own; or a control (recbole_cora/cf/controls.py): zeroed, shuffled, random.", one_of=VECTORS
    )


@dataclass(frozen=True)
class Codes:
    """Binary codes of CF embeddings in the prompt (recbole_cora/models/binary_codes.py)."""

    file: ClassVar[str] = "codes"
    needed_for: ClassVar[frozenset[str]] = frozenset({"codes"})

    bits: int = setting(32, "Bits of a code.", least=1, most=256)
    code_format: str = setting(
        "dotted", "dotted: eight bits a number, 172.16.254.1; bits: as they are.", one_of=("dotted", "bits")
    )
    codes_config: dict[str, Any] = setting({}, "Settings of the codes' own training.")


@dataclass(frozen=True)
class LoRA:
    """One LoRA for every pair, by peft (recbole_cora/llm/lora.py). Defaults are TALLRec's."""

    file: ClassVar[str] = "lora"
    needed_for: ClassVar[frozenset[str]] = frozenset({"lora", "tallrec"})

    lora_rank: int = setting(8, "r.", least=1)
    lora_alpha: float = setting(16.0, "The LoRA is scaled by alpha / r.", above=0)
    lora_dropout: float = setting(0.05, "Dropout on x before A.", least=0, below=1)
    lora_types: str = setting("qv", "Weight types, as weight_types of CoRA.", letters="qkvof")


@dataclass(frozen=True)
class TALLRecStage:
    """Stage 1 of CoLLM and BinLLM, a TALLRec of its own (recbole_cora/parts/ready.py)."""

    file: ClassVar[str] = "tallrec"
    needed_for: ClassVar[frozenset[str]] = frozenset({"tallrec"})

    lora_config: dict[str, Any] = setting({}, "Settings of its own training, e.g. {learning_rate: 0.0003}.")
    lora_checkpoint: str | None = setting(None, "Folder of an earlier run of TALLRec, instead of training one.")


PARTS = (LLM, Encoder, Codes, LoRA, TALLRecStage)
