"""The frozen LLM of a run, and the prompts of its rows."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_cora import processes
from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import LLMError, SettingError
from recbole_cora.files import content_key
from recbole_cora.llm import gguf, hub, smollm2
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.tiny import VERSION as TINY_VERSION
from recbole_cora.llm.tiny import make_tiny_llm
from recbole_cora.progress import draws_bars
from recbole_cora.prompts.chat import in_chat
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.rows import Features, RowPrompts, titles_of
from recbole_cora.prompts.template import Template, clean_title, load_template
from recbole_cora.settings.recbole_config import CoraConfig

log = logging.getLogger()

#: Prompts on which the answers' probability is measured.
_PROBED_PROMPTS = 8
#: Below this probability of both answers together, a run warns.
_LEAST_ANSWER_PROBABILITY = 0.05


def ready_llm(config: CoraConfig, ratings: Ratings) -> FrozenLLM:
    """Return the frozen LLM that the settings name. The tiny LLM is made first if it is not in the cache.

    Raises:
        DataError: the dataset has no titles.
        SettingError: `device_map` is set, and several processes would each spread the LLM over all GPUs.
        LLMError: the LLM cannot be loaded, or its context is too short.
    """
    titles_of(ratings)  # refuses a dataset without titles before anything slow starts
    if config["device_map"] and processes.count() > 1:
        raise SettingError(
            f"device_map={config['device_map']} spreads one LLM over all GPUs, but {processes.count()} processes "
            "would each do so; use one process, or let each GPU hold the LLM (--quantised=4bit, no --device_map)"
        )
    hub.show_loading_bars(config.show_progress and draws_bars() and config["llm"] != "tiny")
    path = _folder_or_hub_id(config, ratings)
    model, tokenizer = hub.load(
        path, revision=config["llm_revision"], dtype=config["dtype"], quantised=config["quantised"],
        device=str(config["device"]), device_map=config["device_map"], offload_folder=config["offload_folder"],
        trust_remote_code=config["trust_remote_code"], allow_pickle=config["allow_pickle"],
    )  # fmt: skip
    prompt_end = prompt_template(config, tokenizer).after
    llm = FrozenLLM(
        model, tokenizer, path, config["llm_revision"], answer_score=config["answer_score"], prompt_end=prompt_end
    )
    llm.recompute = bool(config["gradient_checkpointing"])
    llm.batch_tokens = config["llm_batch_tokens"] or llm.batch_tokens
    llm.prefixes.limit_bytes = (config["prefix_cache_mb"] or 0) * 2**20
    log.info(f"{config['llm']}: {llm.dtype}, {llm.reading}, at most {llm.batch_tokens:,} tokens at once")
    if llm.max_tokens < 64:
        raise LLMError(f"{path} reads {llm.max_tokens} tokens; a prompt needs at least 64")
    return llm


def _folder_or_hub_id(config: CoraConfig, ratings: Ratings) -> str:
    """Return where the LLM is; the tiny LLM is made, and a GGUF file is dequantised, if the cache lacks it."""
    name: str = config["llm"]
    if name == "tiny":
        return str(_tiny_llm_folder(config, ratings))
    if name == smollm2.NAME:
        name = str(smollm2.required_file())
    if not gguf.is_gguf(name):
        return name
    dtype = hub.dtype_named(config["dtype"], str(config["device"]), config["device_map"])
    return str(gguf.dequantised(Path(name).expanduser(), Path(config["cache_dir"]), dtype))


def _tiny_llm_folder(config: CoraConfig, ratings: Ratings) -> Path:
    """Return the cache folder of the tiny LLM, which is made now if it is missing."""
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

    cached(folder, fill, lambda entry: None)  # checks the manifest only; FrozenLLM reads the files
    return folder


def ready_prompts(config: CoraConfig, ratings: Ratings, llm: FrozenLLM, codes: Features | None = None) -> RowPrompts:
    """Return every row's prompt in the LLM's tokens. If the model has `slots`, its prompts contain them.

    Args:
        codes: texts of each row's user and item, for the prompts of a model without slots.
    """
    template = prompt_template(config, llm.tokenizer)
    encoder = PromptEncoder(llm.tokenizer, template, llm.max_tokens, config["history_items"])
    features = codes or Features()
    slots = getattr(config.model_class, "slots", None)
    if slots:
        features = Features(*(encoder.slot * count for count in slots))
    return RowPrompts(
        ratings, encoder, config["history_items"], Path(config["cache_dir"]) / "tokens",
        questions=weights_on(config) == "question" or getattr(config.model_class, "reads_base_llm", False),
        features=features,
        show_titles=config["show_titles"], show_progress=config.show_progress,
    )  # fmt: skip


def prompt_template(config: CoraConfig, tokenizer: Any) -> Template:
    """Return the template that the settings name, in the form that suits this tokenizer (see `in_chat`)."""
    return in_chat(load_template(config["template"] or "items"), tokenizer, config["chat_template"])


def prompt_key(config: CoraConfig, llm: FrozenLLM) -> str:
    """Return a key of the prompts' form: the template's text, in chat form or not, and the two answer tokens."""
    template = prompt_template(config, llm.tokenizer)
    return content_key(template.before, template.between, template.after, template.is_chat, list(llm.answer_ids))


def answer_probability(llm: FrozenLLM, prompts: RowPrompts, rows: Sequence[int]) -> float:
    """Log one whole prompt and its answers, and return how probable both answers are together, on a few of the rows.

    A probability below 5 % is logged as a warning.
    """
    probed = list(rows[:: max(1, len(rows) // _PROBED_PROMPTS)][:_PROBED_PROMPTS])
    probability = llm.answer_probability(prompts.of(probed))
    answers = " and ".join(repr(llm.tokenizer.decode([token])) for token in llm.answer_ids)
    log.info(f"a prompt of {len(prompts[probed[0]])} tokens:\n{llm.tokenizer.decode(prompts[probed[0]])}")
    line = f"the answers {answers} have {probability:.1%} of the base LLM's probability (mean of {len(probed)} prompts)"
    if probability < _LEAST_ANSWER_PROBABILITY:
        log.warning(f"{line}: it would rather say something else; try --chat_template= or another --template=")
    else:
        log.info(line)
    return probability


def weights_on(config: CoraConfig) -> str:
    """Return the setting `weights_on`, or `prompt` for a model without it."""
    value: str = config.settings.get("weights_on", "prompt")
    return value


def tiny_texts(ratings: Ratings, config: CoraConfig) -> list[str]:
    """Return the texts that the tiny LLM is trained on: item texts, and a prompt for each liked train row.

    They contain no label, and no valid or test row. The prompt of a liked train row names the history and then the
    liked item, so it shows no more than a liked history that is one item longer. A coin toss decides the answer that
    follows: the tiny LLM learns that an answer is Yes or No, but not which one. Its own score is therefore near 0
    instead of an accident of its initial weights.
    """
    titles = [clean_title(title) for title in titles_of(ratings)]
    template = load_template(config["template"] or "items")
    coin = random.Random(config["seed"])

    def prompt_and_answer(row: int) -> str:
        history = ratings.history(row, config["history_items"])
        prompt = template.prompt([titles[item] for item in history], titles[ratings.item[row]])
        return prompt.text + coin.choice((" Yes", " No"))

    items = [f'"{title}" {text}'.strip() for title, text in zip(titles_of(ratings), ratings.item_text, strict=True)]
    train_rows = ratings.rows("train")
    liked_rows = train_rows[ratings.label[train_rows] > 0.5].tolist()
    return items + [prompt_and_answer(row) for row in liked_rows]
