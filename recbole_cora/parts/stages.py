"""Stages before a model's own: trained once, kept by content, or taken from an earlier run's folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from recbole_cora.errors import CheckpointError
from recbole_cora.files import cached, content_key, write_json
from recbole_cora.ratings import Ratings
from recbole_cora.registry import model_class
from recbole_cora.settings import NOT_CONTENT, CoraConfig
from recbole_cora.stage import VERSION as STAGE_VERSION
from recbole_cora.stage import ModelMaker, Stage

log = logging.getLogger()

#: Settings that an earlier stage takes over from the run's; everything else is its own.
_SHARED = (
    "data_path", "cache_dir", "checkpoint_dir", "seed", "reproducibility", "show_progress", "state", "use_gpu",
    "threshold", "eval_args", "title_field", "history_items", "field_separator", "USER_ID_FIELD", "ITEM_ID_FIELD",
    "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD",
)  # fmt: skip


def stage_config(config: CoraConfig, name: str, options: dict[str, Any]) -> CoraConfig:
    """Settings of an earlier stage: what every stage of a run shares, and `options`."""
    shared = {key: value for key, value in config.external_config_dict.items() if key in _SHARED}
    return CoraConfig(model_class(name), config["dataset"], {**shared, **options})


def ready_stage(
    config: CoraConfig,
    ratings: Ratings,
    kind: str,
    *,
    make: ModelMaker | None = None,
    also: dict[str, Any] | None = None,
    reads: str = "",
    folder: Path | None = None,
) -> Stage:
    """A trained stage: from `folder`, from the cache, or trained now.

    Args:
        config: of this stage.
        kind: what it is for, in a log; and its folder in the cache.
        make, also: as a Stage takes them.
        reads: a key of what the stage reads beside the rows, such as its prompts.

    Raises:
        CheckpointError: a `folder` of another model, split or vocabulary.
    """
    name = config["model"]
    stage = Stage(config, ratings, make, also)
    if folder is not None:
        stage.load(folder)
    else:
        key = content_key(STAGE_VERSION, config.content(), stage.identity, reads)
        folder = Path(config["cache_dir"]) / kind / f"{name}-{config['dataset']}-{key}"

        def fill(temporary: Path) -> None:
            log.info(f"training {name} ({kind})")
            stage.fit(temporary, title=f"{kind}: {name}")
            write_json(temporary / "result.json", {"model": name, "config": config.public()})

        cached(folder, fill, stage.load)
    log.info(f"{name} ({kind}) from {folder}")
    return stage


def settings_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """Model name and model settings of an earlier run's folder."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        name, settings = result["model"], result["config"]
    except OSError as error:
        raise CheckpointError(f"{folder} is no run folder: cannot read its result.json ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder}/result.json was not written by a run of recbole-cora") from None
    own = CoraConfig.own_keys(model_class(name)) or settings
    return name, {k: v for k, v in settings.items() if k in own and k not in NOT_CONTENT}
