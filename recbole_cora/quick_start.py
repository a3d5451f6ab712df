"""One run, from settings to `result.json`: rows -> frozen parts -> train -> score -> summary."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import init_logger

from recbole_cora import metrics, processes, repairs, summary
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.files import check_writable, write_json
from recbole_cora.llm.choice import with_llm
from recbole_cora.models.cora import CoRA
from recbole_cora.parts.ready import Parts, ready_parts
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.restore import resolve_run
from recbole_cora.training import run_folder
from recbole_cora.training import state as training_state
from recbole_cora.training.stage import Stage, peak_memory_mb

log = logging.getLogger()


def run(
    model: str | None = None,
    dataset: str | None = None,
    options: dict[str, Any] | None = None,
    config_files: list[str] | None = None,
    *,
    on_valid: Callable[[int, dict[str, float | None]], None] | None = None,
    test: bool = True,
) -> dict[str, Any]:
    """Train a model on a dataset and score it; the result is also written to the run's new folder.

    Args:
        model: `CoRA`, `MF`, `LGCN`, `SAS`, or any model of RecBole.
        dataset: a folder of `data_path`, or `ml-100k`.
        options: settings, already typed; they win over the files.
        config_files: YAML files of settings.
        on_valid: called after each evaluation in training with the number of epochs so far and the valid metrics; where
            a run goes on from its last saved state, again for the epochs since.
        test: False leaves the test rows alone (in a search, they are for the winner), and the valid rows are not
            scored again after a training that has done so.

    Returns:
        What `result.json` holds, and `folder`, the run's path.

    Raises:
        CoraError: whatever a user can cause; nothing is left half-written.
    """
    settings = resolve_run(model, dataset, options or {}, config_files or ())
    repairs.apply_all()
    metrics.register()
    llm_why: str | None = None
    preset: dict[str, Any] = {}
    if "llm" in settings.needs:
        settings, llm_why, preset = with_llm(settings)
    model, dataset = settings.model, settings.dataset
    config = CoraConfig(model_class(model), dataset, settings=settings)
    run_folder.check(config)
    processes.join(on_cpu=config["device"].type == "cpu")
    with processes.main_first():  # RecBole makes its folder where there is none yet
        _start_logging(config)
    if llm_why:
        log.info(f"LLM: {settings['llm']} ({llm_why})")
    if preset:
        log.info("tiny preset: " + ", ".join(f"{key} {value}" for key, value in preset.items()))
    seconds: dict[str, float] = {}
    started = lap = perf_counter()

    with processes.main_first():
        prepare_by_itself(dataset, Path(config["data_path"]), config.show_progress)
    ratings = load_ratings(Path(config["data_path"]), dataset, config.final_config_dict)
    _log_rows(ratings)
    seconds["data"], lap = perf_counter() - lap, perf_counter()

    with processes.main_first():
        parts = ready_parts(config, ratings)
    seconds |= parts.seconds
    lap = perf_counter()
    stage = Stage(config, ratings, partial(config.model_class, **parts.given), parts.identity, parts.history_length)
    result: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        **parts.told,
        "llm_why": llm_why,
        "seed": config["seed"],
    }

    with run_folder.claim(config) as folder:
        if config["checkpoint"]:
            stage.load(Path(config["checkpoint"]))
            processes.share(stage.model, config["seed"], trains=False)
        else:
            stage.fit(folder, title=f"train {model}", verbose=True, resumable=True, on_valid=on_valid)
            stage.load(folder)
        seconds["train"] = perf_counter() - lap
        result["curve"] = stage.curve
        validated = any(config["valid_metric"].lower() in epoch for epoch in stage.curve)
        splits = ("valid", "test") if test else () if validated else ("valid",)
        result |= _scored(stage, parts, splits, seconds, folder)
        seconds["total"] = perf_counter() - started
        trained = sum(p.numel() for p in stage.model.parameters() if p.requires_grad)
        result |= {
            "rows": {split: len(ratings.rows(split)) for split in SPLITS},
            "uauc_users": {split: ratings.users_with_both_classes(split) for split in ("valid", "test")},
            "seconds": {k: round(v, 2) for k, v in seconds.items()},
            "trainable_parameters": trained,
            "frozen_parameters": sum(p.numel() for p in stage.model.parameters()) - trained,
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "versions": summary.versions(),
            "config": settings.own(),
            "recbole_config": {key: settings[key] for key in settings if key not in settings.own()},
        }
        if processes.is_main():
            write_json(folder / "result.json", result)
            if not config["keep_states_of_finished"]:
                training_state.remove_all(folder)
    return {**result, "folder": str(folder)}


def _scored(
    stage: Stage, parts: Parts, splits: tuple[str, ...], seconds: dict[str, float], folder: Path
) -> dict[str, Any]:
    """Metrics of the trained model, and of its frozen parts alone, on each split; `seconds` are added to."""
    lap = perf_counter()
    found: dict[str, Any] = {}
    for split in splits:
        scores = stage.score(split)
        found[split] = stage.metrics(split, scores)
        if stage.config["save_scores"] and processes.is_main():
            ratings, rows = stage.ratings, stage.ratings.rows(split)
            users, items = ratings.user_tokens[ratings.user[rows]], ratings.item_tokens[ratings.item[rows]]
            path, labels = folder / f"scores.{split}.csv", ratings.label[rows]
            summary.write_scores(path, users, items, labels, scores, logits=stage.config.scores_are_logits)
    if "test" in splits:
        found |= _warm_and_cold(stage, scores)
    seconds["score"], lap = perf_counter() - lap, perf_counter()
    if "test" in splits and stage.config["references"] and parts.encoder_stage is not None:
        found["reference"] = _references(stage, parts.encoder_stage)
        seconds["reference"] = perf_counter() - lap
    if parts.prompts is not None:
        found["shortened_prompts"] = parts.prompts.shortened
        log.info(f"{parts.prompts.shortened} prompts lost their oldest history items to fit the LLM's context")
        if parts.prompts.shortened_titles:
            found["shortened_titles"] = parts.prompts.shortened_titles
            log.warning(f"{parts.prompts.shortened_titles} prompts lost the end of a title to fit the LLM's context")
    return found


def _warm_and_cold(stage: Stage, scores: Any) -> dict[str, Any]:
    """The test rows by whether their user and item are known from train, by both definitions in use."""
    ratings, test = stage.ratings, stage.ratings.rows("test")
    found: dict[str, Any] = {}
    for least, suffix in ((1, ""), (3, "_at_least_3")):
        warm = ratings.warm(least)[test]
        for name, rows in (("test_warm", warm), ("test_cold", ~warm)):
            found[name + suffix] = stage.metrics("test", scores, rows) | {"rows": int(rows.sum())}
    return found


def _references(stage: Stage, encoder: Stage) -> dict[str, Any]:
    """The test rows as a model's frozen parts score them alone."""
    found = {"cf_encoder": encoder.metrics("test", encoder.score("test"))}
    if isinstance(stage.model, CoRA):
        text_only = stage.score("test", stage.model.predict_text_only, title="score LLM, prompt only")
        found["llm_only"] = stage.metrics("test", text_only, logits=True)
    return found


def _start_logging(config: CoraConfig) -> None:
    """RecBole's logger and format. Its advice on old pandas and torch calls is not the user's to follow."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\..*")
    warnings.filterwarnings("ignore", message=r".*torch\.sparse\.SparseTensor.*")
    for folder in ("log", "log_tensorboard"):  # RecBole's, always in the working directory
        check_writable(Path(folder).absolute(), "make room there, or start the run in another folder")
    init_logger(config)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_stop_writing, handler)  # type: ignore[method-assign]
    if not processes.is_main():
        log.setLevel(logging.ERROR)
    log.info(f"{config['model']} on {config['dataset']}, seed {config['seed']}, device {config['device']}")
    log.debug(config)


def _stop_writing(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Drop a log file that cannot be written any more; the run does not depend on it."""
    log.removeHandler(handler)
    log.warning(f"cannot write the log {handler.baseFilename}; the run continues without it")


def _log_rows(ratings: Ratings) -> None:
    counts = " / ".join(f"{len(ratings.rows(split)):,}" for split in SPLITS)
    no_history = int((ratings.history_end == ratings.history_start).sum())
    log.info(
        f"{ratings.name}: {counts} rows (train / valid / test), {len(ratings.user_tokens):,} users, "
        f"{len(ratings.item_tokens):,} items, {ratings.label.mean():.1%} liked, {no_history:,} rows without history"
    )
    if ratings.titles is not None and ratings.untitled:
        log.warning(f"{ratings.untitled} items have no title; prompts name them 'untitled item <id>'")
