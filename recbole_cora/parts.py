"""The frozen parts of a run, made ready once and kept by content: the CF encoder and the LLM."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.utils import ModelType

from recbole_cora import checkpoint
from recbole_cora.cf import PAIR_EMBEDDINGS, FrozenEncoder
from recbole_cora.errors import CheckpointError, LLMError, SettingError, nearest
from recbole_cora.evidence import EVIDENCE, averages, colikes, out_of_fold_scores
from recbole_cora.files import content_key, make_folder_whole, write_json
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import show_loading_bars
from recbole_cora.llm.tiny import make_tiny_llm
from recbole_cora.prompts import PromptEncoder, clean_title, load_template
from recbole_cora.ratings import Ratings
from recbole_cora.registry import model_class
from recbole_cora.row_prompts import RowPrompts, titles_of
from recbole_cora.settings import PROPERTIES, CoraConfig, read_yaml
from recbole_cora.stage import Stage

log = logging.getLogger()

#: What `--llm=auto` takes where it can.
DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"
#: GPU memory that Vicuna-7B needs in bfloat16, weights and activations, in bytes.
_DEFAULT_LLM_BYTES = 18e9

#: Where the collaborative weights act: on the whole prompt, or on what comes after the history.
WEIGHTS_ON = ("prompt", "question")

#: Settings that an encoder's run takes over from CoRA's; everything else is the encoder's own.
_SHARED = (
    "data_path", "cache_dir", "seed", "reproducibility", "show_progress", "state", "use_gpu", "threshold", "eval_args",
    "title_field", "USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD", "field_separator",
)  # fmt: skip
#: Settings that change nothing in a trained encoder.
_NOT_CONTENT = (
    "data_path",
    "cache_dir",
    "checkpoint_dir",
    "show_progress",
    "state",
    "use_gpu",
    "gpu_id",
    "device",
    "worker",
)


def ready_encoder(config: CoraConfig, ratings: Ratings) -> tuple[FrozenEncoder, Stage]:
    """The frozen CF encoder that the settings ask for: trained now, from the cache, or from `cf_checkpoint`.

    Raises:
        SettingError: an encoder that PAIR_EMBEDDINGS does not know, or an unknown setting of it.
        CheckpointError: a `cf_checkpoint` of another model, split or vocabulary.
    """
    name = config.require("cf_encoder")
    options = {**(config["cf_presets"] or {}).get(name, {}), **(config["cf_config"] or {})}
    folder = Path(config["cf_checkpoint"]) if config["cf_checkpoint"] else None
    if folder:
        name, options = _settings_of(folder)
    if name not in PAIR_EMBEDDINGS:
        known = ", ".join(PAIR_EMBEDDINGS)
        raise SettingError(f"cf_encoder is '{name}'{nearest(str(name), PAIR_EMBEDDINGS)}; expected one of {known}")
    shared = {k: v for k, v in config.external_config_dict.items() if k in _SHARED}
    encoder_config = CoraConfig(model_class(name), config["dataset"], {**shared, **options})
    stage = Stage(encoder_config, ratings)
    cached = folder or _cache(config, "encoders", name, _content(encoder_config), ratings.key())
    if folder is None and not (cached / checkpoint.WEIGHTS).is_file():
        log.info(f"training the CF encoder {name}")

        def fill(temporary: Path) -> None:
            stage.fit(temporary, title=f"encoder {name}")
            write_json(temporary / "result.json", {"model": name, "config": encoder_config.public()})

        make_folder_whole(cached, fill)
    stage.load(cached)
    log.info(f"CF encoder {name} from {cached}")
    evidence = [_evidence(kind, config, stage) for kind in config["cf_evidence"] or ()]
    columns = torch.from_numpy(np.column_stack(evidence)) if evidence else torch.empty(len(ratings), 0)
    return FrozenEncoder(stage.model, name, columns, stage.train_rows()), stage


def _evidence(kind: str, config: CoraConfig, encoder: Stage) -> NDArray[np.float32]:
    """One kind of evidence, of all rows: [R] or [R, 2]."""
    ratings, folds = encoder.ratings, config["cf_folds"]
    if not isinstance(folds, int) or folds < 2:
        raise SettingError(f"cf_folds is {folds!r}; expected a whole number of at least 2")
    if kind == "averages":
        return averages(ratings, folds, config["seed"])
    if kind == "colikes":
        return colikes(ratings, config["history_items"])
    if kind != "score":
        raise SettingError(f"cf_evidence has '{kind}'{nearest(str(kind), EVIDENCE)}; expected some of {EVIDENCE}")
    scores = np.empty(len(ratings), dtype=np.float32)
    for split in ("valid", "test"):
        scores[ratings.rows(split)] = encoder.score(split, title=f"score encoder, {split}")
    kept = _cache(config, "encoder_scores", encoder.config["model"], _content(encoder.config), ratings.key(), folds)
    if not kept.is_dir():

        def fill(temporary: Path) -> None:
            np.save(temporary / "train.npy", out_of_fold_scores(encoder.config, ratings, folds))

        make_folder_whole(kept, fill)
    scores[ratings.rows("train")] = np.load(kept / "train.npy", allow_pickle=False)
    return scores


def encoder_settings(config: CoraConfig, encoder: Stage) -> None:
    """Give CoRA's rows what the encoder reads: the liked history, as long as the encoder's, for a sequential one."""
    config["attach_histories"] = encoder.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    config["MAX_ITEM_LIST_LENGTH"] = encoder.config["MAX_ITEM_LIST_LENGTH"]


def _settings_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """Model name and model settings of an earlier run's folder."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        name, settings = result["model"], result["config"]
    except OSError as error:
        raise CheckpointError(f"{folder} is no run folder: cannot read its result.json ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder}/result.json was not written by a run of recbole-cora") from None
    own = PROPERTIES / "model" / f"{name}.yaml"
    keys = read_yaml(own) if own.is_file() else settings
    return name, {k: v for k, v in settings.items() if k in keys and k not in _NOT_CONTENT}


def _content(config: CoraConfig) -> dict[str, Any]:
    return {k: v for k, v in config.public().items() if k not in _NOT_CONTENT}


def _cache(config: CoraConfig, kind: str, name: str, *content: Any) -> Path:
    return Path(config["cache_dir"]) / kind / f"{name}-{config['dataset']}-{content_key(*content)}"


# -- the LLM -----------------------------------------------------------------------------------------------------


def choose_llm(config: CoraConfig) -> tuple[str, str]:
    """The LLM's name and, in one line, why; for `tiny`, its presets are put below what the user set."""
    name, why = config.require("llm"), "as set by --llm"
    if name == "auto":
        name, why = _auto()
    if name == "tiny":
        for key, value in read_yaml(PROPERTIES / "llm" / "tiny.yaml").items():
            if key not in config.external_config_dict:
                config[key] = value
        why += "; it stands in for a real LLM and knows nothing but this dataset's train rows and titles"
    return name, why


def _auto() -> tuple[str, str]:
    from huggingface_hub import try_to_load_from_cache

    if not torch.cuda.is_available():
        return "tiny", "auto: no GPU"
    if torch.cuda.get_device_properties(0).total_memory < _DEFAULT_LLM_BYTES:
        return (
            "tiny",
            f"auto: the GPU has less than the {_DEFAULT_LLM_BYTES / 1e9:.0f} GB of memory that {DEFAULT_LLM} needs",
        )
    if not isinstance(try_to_load_from_cache(DEFAULT_LLM, "config.json"), str):
        return "tiny", f"auto: the weights of {DEFAULT_LLM} are not on this machine (download them, or set --llm=)"
    return DEFAULT_LLM, "auto: its weights and a GPU that holds it are at hand"


def ready_llm(config: CoraConfig, ratings: Ratings, name: str) -> tuple[FrozenLLM, RowPrompts]:
    """The frozen LLM and every row's prompt in its tokens."""
    titles_of(ratings)  # before anything long: a dataset without titles is refused
    template = load_template(config["template"] or "items")
    show_loading_bars(config["show_progress"] and name != "tiny")
    path = name
    if name == "tiny":
        texts = tiny_texts(ratings, config)
        sizes = {k: config[k] for k in ("tiny_hidden", "tiny_layers", "tiny_steps")}
        folder = _cache(config, "llm", "tiny", sizes, config["seed"], texts)
        if not folder.is_dir():
            log.info(f"making the tiny LLM in {folder}")
            make_tiny_llm(
                folder, texts, seed=config["seed"], steps=config["tiny_steps"], hidden=config["tiny_hidden"],
                layers=config["tiny_layers"], show_progress=config["show_progress"],
            )  # fmt: skip
        path = str(folder)
    llm = FrozenLLM.load(
        path, revision=config["llm_revision"], dtype=config["dtype"], quantised=config["quantised"],
        device=str(config["device"]), device_map=config["device_map"], offload_folder=config["offload_folder"],
        trust_remote_code=config["trust_remote_code"], allow_pickle=config["allow_pickle"],
        answer_score=config["answer_score"],
    )  # fmt: skip
    llm.recompute = bool(config["gradient_checkpointing"])
    llm.batch_tokens = config["llm_batch_tokens"] or llm.batch_tokens
    llm.prefixes.limit_bytes = config["prefix_cache_mb"] * 2**20
    log.info(f"{path}: {llm.dtype}, {llm.way}, at most {llm.batch_tokens:,} tokens at once")
    if llm.max_tokens < 64:
        raise LLMError(f"{path} reads {llm.max_tokens} tokens; a prompt needs at least 64")
    history_items = config["history_items"]
    encoder = PromptEncoder(llm.tokenizer, template, llm.max_tokens, history_items)
    prompts = RowPrompts(
        ratings, encoder, history_items, Path(config["cache_dir"]) / "tokens", show_progress=config["show_progress"],
        questions=weights_on(config) == "question",
    )  # fmt: skip
    return llm, prompts


def weights_on(config: CoraConfig) -> str:
    """Where the collaborative weights act. Raises SettingError where that is neither of WEIGHTS_ON."""
    value = config["weights_on"]
    if value not in WEIGHTS_ON:
        raise SettingError(f"weights_on is '{value}'{nearest(str(value), WEIGHTS_ON)}; expected one of {WEIGHTS_ON}")
    return str(value)


def tiny_texts(ratings: Ratings, config: CoraConfig) -> list[str]:
    """What the tiny LLM learns language from: item texts, and the liked histories of the train rows as prompts.

    No label is in it, and no valid or test row. A liked train row's prompt names the liked target after the history:
    a liked history of one more item. The answer after it is drawn by coin: the tiny LLM learns that an answer is Yes or
    No, and nothing of which, so that its own score is near 0 instead of an accident of its initial weights.
    """
    titles = [clean_title(title) for title in titles_of(ratings)]
    template = load_template(config["template"] or "items")
    rows = ratings.rows("train")
    items = [f'"{title}" {text}'.strip() for title, text in zip(titles_of(ratings), ratings.item_text, strict=True)]

    def history_text(row: int) -> str:
        history = ratings.history(row, config["history_items"])
        prompt = template.prompt([titles[item] for item in history], titles[ratings.item[row]])
        return prompt.text + coin.choice((" Yes", " No"))

    coin = random.Random(config["seed"])
    return items + [history_text(row) for row in rows[ratings.label[rows] > 0.5].tolist()]
