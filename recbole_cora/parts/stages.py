"""Stages before a model's own: trained once, kept by content, or taken from an earlier run's folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.files import content_key, write_json
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import VERSION as STAGE_VERSION
from recbole_cora.training.stage import ModelMaker, Stage

log = logging.getLogger()

#: Settings that an earlier stage takes over from the run's; everything else is its own.
_SHARED = (
    "data_path", "cache_dir", "checkpoint_dir", "seed", "reproducibility", "show_progress", "state", "use_gpu",
    "threshold", "eval_args", "title_field", "history_items", "field_separator", "USER_ID_FIELD", "ITEM_ID_FIELD",
    "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD",
)  # fmt: skip


def shared_settings(config: CoraConfig, *, shaping: bool = True) -> dict[str, Any]:
    """Return what the user chose of the settings that every stage of a run shares.

    Args:
        shaping: False leaves out those that shape results; a stage from an earlier run's folder has its own.
    """
    settings = config.settings
    shared = {key: value for key, value in settings.chosen.items() if key in _SHARED}
    return {key: value for key, value in shared.items() if shaping or not settings.shapes_results(key)}


def stage_config(config: CoraConfig, name: str, options: dict[str, Any]) -> CoraConfig:
    """Settings of an earlier stage: what every stage of a run shares, and `options`."""
    return CoraConfig(model_class(name), config["dataset"], {**shared_settings(config), **options})


def ready_stage(
    config: CoraConfig,
    ratings: Ratings,
    kind: str,
    *,
    make: ModelMaker | None = None,
    also: dict[str, Any] | None = None,
    reads: str = "",
    folder: Path | None = None,
    history_length: int | None = None,
) -> Stage:
    """A trained stage: from `folder`, from the cache, or trained now.

    Args:
        config: of this stage.
        kind: what it is for, in a log; and its folder in the cache.
        make, also, history_length: as a Stage takes them.
        reads: a key of what the stage reads beside the rows, such as its prompts.

    Raises:
        CheckpointError: a `folder` of another model, split or vocabulary.
    """
    name = config["model"]
    stage = Stage(config, ratings, make, also, history_length)
    if folder is not None:
        stage.load(folder)
    else:
        key = content_key(STAGE_VERSION, config.content(), stage.identity, reads)
        folder = Path(config["cache_dir"]) / kind / f"{name}-{config['dataset']}-{key}"

        def fill(temporary: Path) -> None:
            log.info(f"training {name} ({kind})")
            stage.fit(temporary, title=f"{kind}: {name}")
            run = {"model": name, "dataset": config["dataset"], "config": dict(config.settings)}
            write_json(temporary / "result.json", run)

        cached(folder, fill, stage.load)
    log.info(f"{name} ({kind}) from {folder}")
    return stage
