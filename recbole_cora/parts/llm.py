"""The frozen LLM of a run, and its prompts."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import torch

from recbole_cora import processes
from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.files import content_key
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import show_loading_bars
from recbole_cora.llm.tiny import make_tiny_llm
from recbole_cora.prompts import PromptEncoder, clean_title, load_template
from recbole_cora.ratings import Ratings
from recbole_cora.row_prompts import Features, RowPrompts, titles_of
from recbole_cora.settings import PROPERTIES, CoraConfig, read_yaml

log = logging.getLogger()

#: What `--llm=auto` takes where it can.
DEFAULT_LLM = "lmsys/vicuna-7b-v1.5"
#: GPU memory that Vicuna-7B needs in bfloat16, weights and activations, in bytes.
_DEFAULT_LLM_BYTES = 18e9

#: Where the collaborative weights act: on the whole prompt, or on what comes after the history.
WEIGHTS_ON = ("prompt", "question")


def choose_llm(config: CoraConfig) -> tuple[str, str]:
    """The LLM's name and, in one line, why; for `tiny`, its presets are put below what the user set."""
    name, why = config.require("llm"), "as set by --llm"
    if name == "auto":
        name, why = _auto()
    if name == "tiny":
        presets = read_yaml(PROPERTIES / "llm" / "tiny.yaml")
        for key, value in {**presets["all"], **presets.get(config["model"], {})}.items():
            if key in config.known and key not in config.external_config_dict:
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


def ready_llm(config: CoraConfig, ratings: Ratings, name: str) -> FrozenLLM:
    """The frozen LLM of that name; `tiny` is made where it is not in the cache."""
    titles_of(ratings)  # before anything long: a dataset without titles is refused
    if config["device_map"] and processes.count() > 1:
        raise SettingError(
            f"device_map={config['device_map']} spreads one LLM over all GPUs, and each of {processes.count()} "
            "processes would; use one process, or let each GPU hold the LLM (--quantised=4bit, no --device_map)"
        )
    show_loading_bars(config["show_progress"] and name != "tiny")
    path = name
    if name == "tiny":
        texts = tiny_texts(ratings, config)
        sizes = {k: config[k] for k in ("tiny_hidden", "tiny_layers", "tiny_steps")}
        key = content_key(sizes, config["seed"], texts)
        folder = Path(config["cache_dir"]) / "llm" / f"tiny-{config['dataset']}-{key}"
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
    llm.prefixes.limit_bytes = (config["prefix_cache_mb"] or 0) * 2**20
    log.info(f"{path}: {llm.dtype}, {llm.way}, at most {llm.batch_tokens:,} tokens at once")
    if llm.max_tokens < 64:
        raise LLMError(f"{path} reads {llm.max_tokens} tokens; a prompt needs at least 64")
    return llm


def ready_prompts(config: CoraConfig, ratings: Ratings, llm: FrozenLLM, codes: Features | None = None) -> RowPrompts:
    """Every row's prompt in the LLM's tokens, with slots where the model fills them.

    Args:
        codes: texts of users and items, instead of slots.
    """
    template = load_template(config["template"] or "items")
    encoder = PromptEncoder(llm.tokenizer, template, llm.max_tokens, config["history_items"])
    features = codes or Features()
    slots = getattr(config.model_class, "slots", None)
    if slots:
        features = Features(*(encoder.slot * count for count in slots))
    return RowPrompts(
        ratings, encoder, config["history_items"], Path(config["cache_dir"]) / "tokens",
        questions=weights_on(config) == "question", features=features,
        show_titles=config["show_titles"], show_progress=config["show_progress"],
    )  # fmt: skip


def weights_on(config: CoraConfig) -> str:
    """Where the collaborative weights act. Raises SettingError where that is neither of WEIGHTS_ON."""
    value = config["weights_on"] or "prompt"  # of a model that has no such setting
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
