"""One run, from settings to `result.json`: rows -> frozen parts -> training -> scores -> result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recbole.utils import init_logger

from recbole_cora import metrics, processes, repairs, summary
from recbole_cora.data.protocol import SPLITS
from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.files import check_writable, write_json
from recbole_cora.llm.choice import with_llm
from recbole_cora.metrics import Metrics
from recbole_cora.parts.laps import Laps
from recbole_cora.parts.ready import Parts, ready_parts
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.prompts.rows import RowPrompts
from recbole_cora.registry import model_class
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.resolve import Settings
from recbole_cora.settings.restore import resolve_run
from recbole_cora.training import run_folder
from recbole_cora.training import state as training_state
from recbole_cora.training.stage import Stage, peak_memory_mb

log = logging.getLogger()


def run(
    model: str | None = None,
    dataset: str | None = None,
    options: Mapping[str, object] | None = None,
    config_files: Sequence[str] | None = None,
    *,
    on_valid: Callable[[int, Metrics], None] | None = None,
    test: bool = True,
) -> dict[str, Any]:
    """Train a model on a dataset and score it; `recbole_cora.run` documents the arguments.

    A resumed run calls `on_valid` again for the epochs since its last saved state. Without `test`, the valid rows are
    scored only if the training has not evaluated them.
    """
    settings = resolve_run(model, dataset, options or {}, config_files or ())
    repairs.apply_all()
    metrics.register()
    settings, llm_choice = _choose_llm(settings)
    config = CoraConfig(model_class(settings.model), settings.dataset, settings=settings)
    run_folder.check(config)
    processes.join(on_cpu=config["device"].type == "cpu")
    with processes.main_first():  # RecBole creates its log folders
        _start_logging(config)
    _log_llm_choice(config, llm_choice)

    laps = Laps()
    ratings = _load_rows(config)
    laps.end("data")
    with processes.main_first():
        parts = ready_parts(config, ratings)
    laps.add(parts.laps)
    stage = Stage(config, ratings, partial(config.model_class, **parts.arguments), parts.identity, parts.history_length)

    with run_folder.claim(config) as folder:
        _train(stage, folder, on_valid)
        laps.end("train")
        scores = _score(stage, parts, _splits_to_score(stage, test), laps, folder)
        _log_shortened(parts.prompts)
        result = _result(stage, parts, llm_choice, scores, laps)
        if processes.is_main():
            write_json(folder / "result.json", result)
            if not config["keep_states_of_finished"]:
                training_state.remove_all(folder)
    return {**result, "folder": str(folder)}


@dataclass(frozen=True)
class _LLMChoice:
    """Why a run uses its LLM (None if it uses none), and the settings that the tiny preset changed."""

    why: str | None
    preset: Mapping[str, object]


def _choose_llm(settings: Settings) -> tuple[Settings, _LLMChoice]:
    """Replace `llm: auto` by the LLM to use, and apply the preset of the tiny LLM if that is the one."""
    if "llm" not in settings.needs:
        return settings, _LLMChoice(None, {})
    settings, why, preset = with_llm(settings)
    return settings, _LLMChoice(why, preset)


def _load_rows(config: CoraConfig) -> Ratings:
    """Return the rows of the dataset, which is first prepared if the package can do so."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    with processes.main_first():
        prepare_by_itself(dataset, folder, config.show_progress)
    ratings = load_ratings(folder, dataset, config.final_config_dict)
    _log_rows(ratings)
    return ratings


def _train(stage: Stage, folder: Path, on_valid: Callable[[int, Metrics], None] | None) -> None:
    """Train the model and load its best weights into it, or load those of the run that `checkpoint` names."""
    config = stage.config
    if config["checkpoint"]:
        stage.load(Path(config["checkpoint"]))
        processes.share(stage.model, config["seed"], trains=False)
    else:
        stage.fit(folder, title=f"train {config['model']}", verbose=True, resumable=True, on_valid=on_valid)
        stage.load(folder)


def _splits_to_score(stage: Stage, test: bool) -> tuple[str, ...]:
    """Return the splits to score: valid and test; without `test`, valid if the training has not evaluated it.

    With `score_valid: False`, a run that scores the test rows leaves the valid rows out.
    """
    if test:
        return ("valid", "test") if stage.config["score_valid"] else ("test",)
    metric = stage.config["valid_metric"].lower()
    return () if any(metric in epoch for epoch in stage.curve) else ("valid",)


@dataclass(frozen=True)
class _Scores:
    """Metrics of a run.

    Attributes:
        splits: metrics of the model, by split.
        warm_and_cold: metrics of the model on the warm and on the cold test rows, each with the number of rows.
        references: test metrics of the model's frozen parts by themselves; None if they were not scored.
    """

    splits: Mapping[str, Metrics]
    warm_and_cold: Mapping[str, Metrics]
    references: Mapping[str, Metrics] | None


def _score(stage: Stage, parts: Parts, splits: Sequence[str], laps: Laps, folder: Path) -> _Scores:
    """Score the rows of each split, and also the references if "test" is one of them.

    The scores themselves are written to `folder` if `save_scores` is set.
    """
    scores_of_split = {}
    metrics_of_split = {}
    for split in splits:
        scores_of_split[split] = scores = stage.score(split)
        metrics_of_split[split] = stage.metrics(split, scores)
        if stage.config["save_scores"] and processes.is_main():
            _write_scores(stage, split, scores, folder)
    warm_and_cold = _warm_and_cold(stage, scores_of_split["test"]) if "test" in splits else {}
    laps.end("score")
    references = None
    if "test" in splits and stage.config["references"] and parts.encoder_stage is not None:
        references = _references(stage, parts.encoder_stage)
        laps.end("reference")
    return _Scores(metrics_of_split, warm_and_cold, references)


def _write_scores(stage: Stage, split: str, scores: NDArray[np.float32], folder: Path) -> None:
    ratings, rows = stage.ratings, stage.ratings.rows(split)
    users, items = ratings.user_tokens[ratings.user[rows]], ratings.item_tokens[ratings.item[rows]]
    path, labels = folder / f"scores.{split}.csv", ratings.label[rows]
    summary.write_scores(path, users, items, labels, scores, logits=stage.config.scores_are_logits)


def _warm_and_cold(stage: Stage, scores: NDArray[np.float32]) -> dict[str, Metrics]:
    """Return the metrics of the warm and of the cold test rows, by both definitions in use.

    A row is warm if its user and its item both have at least 1, or at least 3, train rows.
    """
    ratings, test_rows = stage.ratings, stage.ratings.rows("test")
    by_kind: dict[str, Metrics] = {}
    for least, suffix in ((1, ""), (3, "_at_least_3")):
        warm = ratings.warm(least)[test_rows]
        for kind, rows in (("test_warm", warm), ("test_cold", ~warm)):
            by_kind[kind + suffix] = stage.metrics("test", scores, rows) | {"rows": int(rows.sum())}
    return by_kind


def _references(stage: Stage, encoder: Stage) -> dict[str, Metrics]:
    """Return the test metrics of the model's frozen parts by themselves.

    These are the CF encoder and, for CoRA and LateFusion, the LLM.
    """
    references = {"cf_encoder": encoder.metrics("test", encoder.score("test"))}
    if (predict_text_only := getattr(stage.model, "predict_text_only", None)) is not None:
        remedy = "--references=False spares it"
        text_only = stage.score("test", predict_text_only, title="score LLM, prompt only", remedy=remedy)
        references["llm_only"] = stage.metrics("test", text_only, logits=True)
    return references


def _result(stage: Stage, parts: Parts, llm_choice: _LLMChoice, scores: _Scores, laps: Laps) -> dict[str, Any]:
    """Return the content of `result.json`, in its order."""
    config, settings, ratings = stage.config, stage.config.settings, stage.ratings
    package_settings = settings.package_settings()
    parameters = list(stage.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        **parts.summary,
        "llm_why": llm_choice.why,
        "seed": config["seed"],
        "curve": stage.curve,
        **scores.splits,
        **scores.warm_and_cold,
        **({} if scores.references is None else {"reference": scores.references}),
        **_shortened_prompts(parts.prompts),
        "rows": {split: len(ratings.rows(split)) for split in SPLITS},
        **({"negatives": ratings.negatives} if ratings.negatives else {}),
        "uauc_users": {split: ratings.users_with_both_classes(split) for split in ("valid", "test")},
        "seconds": {step: round(seconds, 2) for step, seconds in {**laps.seconds, "total": laps.total()}.items()},
        "trainable_parameters": trainable,
        "frozen_parameters": sum(p.numel() for p in parameters) - trainable,
        **getattr(stage.model, "result_entries", dict)(),  # LateFusion's coefficients
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "versions": summary.versions(),
        "commit": summary.commit(),
        "machine": summary.machine(),
        "config": package_settings,
        "recbole_config": {key: settings[key] for key in settings if key not in package_settings},
    }


def _shortened_prompts(prompts: RowPrompts | None) -> dict[str, int]:
    """Return the number of shortened prompts and, if any, of shortened titles; {} for a model without prompts."""
    if prompts is None:
        return {}
    titles = {"shortened_titles": prompts.shortened_titles} if prompts.shortened_titles else {}
    return {"shortened_prompts": prompts.shortened, **titles}


def _start_logging(config: CoraConfig) -> None:
    """Start RecBole's logger, and hide warnings about RecBole's use of pandas and torch: no user can act on them."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\..*")
    warnings.filterwarnings("ignore", module=r"recbole\.data\.dataset\..*")  # in-place calls that repairs.py replaces
    warnings.filterwarnings("ignore", message=r".*torch\.sparse\.SparseTensor.*")
    for folder in ("log", "log_tensorboard"):  # RecBole always creates them in the working directory
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
    """Drop a log file that can no longer be written; the run does not depend on it."""
    log.removeHandler(handler)
    log.warning(f"cannot write the log {handler.baseFilename}; the run continues without it")


def _log_llm_choice(config: CoraConfig, choice: _LLMChoice) -> None:
    if choice.why:
        log.info(f"LLM: {config['llm']} ({choice.why})")
    if choice.preset:
        log.info("tiny preset: " + ", ".join(f"{key} {value}" for key, value in choice.preset.items()))


def _log_shortened(prompts: RowPrompts | None) -> None:
    if prompts is None:
        return
    log.info(f"{prompts.shortened} prompts lost their oldest history items to fit the LLM's context")
    if prompts.shortened_titles:
        log.warning(f"{prompts.shortened_titles} prompts lost the end of a title to fit the LLM's context")


def _log_rows(ratings: Ratings) -> None:
    counts = " / ".join(f"{len(ratings.rows(split)):,}" for split in SPLITS)
    no_history = int((ratings.history_end == ratings.history_start).sum())
    log.info(
        f"{ratings.name}: {counts} rows (train / valid / test), {len(ratings.user_tokens):,} users, "
        f"{len(ratings.item_tokens):,} items, {ratings.label.mean():.1%} liked, {no_history:,} rows without history"
    )
    if ratings.negatives:
        log.info(summary.negatives_note(ratings.negatives))
    if ratings.titles is not None and ratings.untitled:
        log.warning(f"{ratings.untitled} items have no title; prompts name them 'untitled item <id>'")
