"""The model of an earlier run, loaded from its folder together with the frozen parts that it needs."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

from recbole_cora import metrics, processes, repairs
from recbole_cora.data.ratings import load_ratings
from recbole_cora.llm.choice import with_llm
from recbole_cora.parts.ready import Parts, ready_parts
from recbole_cora.prepare.command import prepare_by_itself
from recbole_cora.registry import model_class
from recbole_cora.settings.kinds import SettingValues
from recbole_cora.settings.recbole_config import CoraConfig
from recbole_cora.settings.restore import read_run, resolve_run
from recbole_cora.training.stage import Stage

#: Settings of the earlier run that shape no result, but say where its dataset and its frozen parts are.
_PLACES = ("data_path", "cache_dir")


def load_saved(folder: Path, options: SettingValues | None = None, *, quiet: bool = True) -> tuple[Stage, Parts]:
    """Return the trained model of the run in `folder`, in evaluation mode, and its frozen parts.

    Settings, rows, split, vocabulary and seed are those of that run. The frozen parts come from its cache; those that
    are missing there are made again, which takes as long as it took in that run.

    Args:
        folder: the folder of a run, with `result.json` (or `run.json`) and the weights.
        options: settings for this use, such as `use_gpu`, `cache_dir`, or `llm` if its folder has moved. They must not
            contradict the run's settings.
        quiet: show no progress bars.

    Raises:
        CheckpointError: this is not the folder of a run, it has no weights, an option contradicts the run, or the
            dataset or a frozen part is not the one that the model was trained with.
        SettingError, DataError, LLMError: the settings, the dataset or the LLM cannot be used here.
    """
    run = read_run(folder)
    places = {key: run.settings[key] for key in _PLACES if key in run.settings}
    bars = {"show_progress": False} if quiet else {}
    settings = resolve_run(None, None, {**places, **bars, **(options or {}), "checkpoint": str(folder)})
    repairs.apply_all()
    metrics.register()
    if "llm" in settings.needs:
        settings, *_ = with_llm(settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"recbole\..*")  # of pandas and torch, on RecBole's use of them
        warnings.filterwarnings("ignore", message=r".*torch\.sparse\.SparseTensor.*")
        config = CoraConfig(model_class(settings.model), settings.dataset, settings=settings)
        processes.join(on_cpu=config["device"].type == "cpu")
        data = Path(config["data_path"])
        with processes.main_first():
            prepare_by_itself(config["dataset"], data, config.show_progress)
        ratings = load_ratings(data, config["dataset"], config.final_config_dict)
        with processes.main_first():
            parts = ready_parts(config, ratings)
        make = partial(config.model_class, **parts.arguments)
        stage = Stage(config, ratings, make, parts.identity, parts.history_length)
        stage.load(folder)
    stage.model.eval()
    return stage, parts
