"""Earlier stages of a run: models trained before the run's own model, now or in an earlier run."""

from __future__ import annotations

import logging
from pathlib import Path

from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.files import content_key, write_json
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.training.stage import VERSION as STAGE_VERSION
from recbole_cora.training.stage import ModelMaker, Stage

log = logging.getLogger()

#: Settings that an earlier stage takes from the run; it has its own values for all others.
_SHARED = (
    "data_path", "cache_dir", "checkpoint_dir", "seed", "reproducibility", "show_progress", "state", "use_gpu",
    "threshold", "eval_args", "title_field", "history_items", "field_separator", "USER_ID_FIELD", "ITEM_ID_FIELD",
    "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD",
)  # fmt: skip


def shared_settings(config: CoraConfig, *, shaping: bool = True) -> dict[str, object]:
    """Return the settings that all stages of a run share, as far as the user set them.

    Args:
        shaping: False leaves out the settings that shape results; a stage from an earlier run's folder has its own.
    """
    settings = config.settings
    values = {key: value for key, value in settings.chosen.items() if key in _SHARED}
    return {key: value for key, value in values.items() if shaping or not settings.shapes_results(key)}


def stage_config(config: CoraConfig, model: str, options: dict[str, object]) -> CoraConfig:
    """Return the config of an earlier stage: the settings that all stages of a run share, overridden by `options`."""
    return CoraConfig(model_class(model), config["dataset"], {**shared_settings(config), **options})


def ready_stage(
    config: CoraConfig,
    ratings: Ratings,
    kind: str,
    *,
    make: ModelMaker | None = None,
    identity: dict[str, object] | None = None,
    input_key: str = "",
    folder: Path | None = None,
    history_length: int | None = None,
) -> Stage:
    """Return a trained stage: from `folder`, from the cache, or trained now.

    Args:
        config: the config of this stage.
        kind: what the stage is for. It names the stage in the log and its folder in the cache.
        make, identity, history_length: `make`, `also` and `history_length` of `Stage`.
        input_key: a key of what the stage reads besides the rows, such as its prompts.
        folder: an earlier run of this model; None: use the cache.

    Raises:
        CheckpointError: `folder` is a run of another model, split or vocabulary.
    """
    model = config["model"]
    stage = Stage(config, ratings, make, identity, history_length)
    if folder is not None:
        stage.load(folder)
    else:
        key = content_key(STAGE_VERSION, config.content(), stage.identity, input_key)
        folder = Path(config["cache_dir"]) / kind / f"{model}-{config['dataset']}-{key}"

        def fill(temporary: Path) -> None:
            log.info(f"training {model} ({kind})")
            stage.fit(temporary, title=f"{kind}: {model}")
            run = {"model": model, "dataset": config["dataset"], "config": dict(config.settings)}
            write_json(temporary / "result.json", run)

        cached(folder, fill, stage.load)
    log.info(f"{model} ({kind}) from {folder}")
    return stage
