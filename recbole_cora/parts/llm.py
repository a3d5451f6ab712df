"""The frozen LLM of a run, and its prompts."""

from __future__ import annotations

import logging
import random
from pathlib import Path

from recbole_cora import processes
from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import LLMError, SettingError
from recbole_cora.files import content_key
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import show_loading_bars
from recbole_cora.llm.tiny import VERSION as TINY_VERSION
from recbole_cora.llm.tiny import make_tiny_llm
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.rows import Features, RowPrompts, titles_of
from recbole_cora.prompts.template import clean_title, load_template
from recbole_cora.settings.recbole_config import CoraConfig

log = logging.getLogger()


def ready_llm(config: CoraConfig, ratings: Ratings) -> FrozenLLM:
    """Return the frozen LLM that the settings name; `tiny` is made where it is not in the cache."""
    name = config["llm"]
    titles_of(ratings)  # before anything long: a dataset without titles is refused
    if config["device_map"] and processes.count() > 1:
        raise SettingError(
            f"device_map={config['device_map']} spreads one LLM over all GPUs, and each of {processes.count()} "
            "processes would; use one process, or let each GPU hold the LLM (--quantised=4bit, no --device_map)"
        )
    show_loading_bars(config.show_progress and name != "tiny")
    path = name
    if name == "tiny":
        texts = tiny_texts(ratings, config)
        sizes = {k: config[k] for k in ("tiny_hidden", "tiny_layers", "tiny_steps")}
        key = content_key(TINY_VERSION, sizes, config["seed"], texts)
        folder = Path(config["cache_dir"]) / "llm" / f"tiny-{config['dataset']}-{key}"

        def fill(temporary: Path) -> None:
            log.info(f"making the tiny LLM in {folder}")
            make_tiny_llm(
                temporary, texts, seed=config["seed"], steps=config["tiny_steps"], hidden=config["tiny_hidden"],
                layers=config["tiny_layers"], show_progress=config.show_progress,
            )  # fmt: skip

        cached(folder, fill, lambda entry: None)  # its manifest tells damage; FrozenLLM reads it
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
    log.info(f"{path}: {llm.dtype}, {llm.reading}, at most {llm.batch_tokens:,} tokens at once")
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
        show_titles=config["show_titles"], show_progress=config.show_progress,
    )  # fmt: skip


def weights_on(config: CoraConfig) -> str:
    """Return where the weights act; `prompt` for a model that has no such setting."""
    value: str = config.settings.get("weights_on", "prompt")
    return value


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
