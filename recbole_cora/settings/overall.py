"""Settings of every model: properties/overall.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_cora.settings.kinds import setting

METRICS = ("AUC", "UAUC", "LogLoss", "MAE", "RMSE")


@dataclass(frozen=True)
class Rows:
    """Rows: which ratings are rows, their labels and splits (recbole_cora/data/ratings.py)."""

    eval_args: dict[str, Any] = setting(
        {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "labeled"},
        "How rows are split and scored. split: shares of train, valid and test, cut in time from each user's rows; not "
        "used where <name>.train.inter, <name>.valid.inter and <name>.test.inter exist. mode must stay labeled.",
    )
    threshold: dict[str, Any] | None = setting(
        {"rating": 4}, "Label 1 where the column is at least this; not used where there is a label column."
    )
    title_field: str | None = setting(
        None, "Column of <name>.item with the title; ~ tries title, movie_title, item_title, name and book_title."
    )
    history_items: int = setting(
        10, "Last liked items that a prompt shows and that co-liking looks at; the paper's 10.", least=0
    )


@dataclass(frozen=True)
class Training:
    """Training and evaluation."""

    metrics: list[str] = setting(
        ["AUC", "UAUC", "LogLoss"], "On labelled rows. UAUC: mean AUC over users with both classes.", one_of=METRICS
    )
    valid_metric: str = setting("AUC", "Metric of early stopping.", one_of=METRICS)
    metric_decimal_place: int = setting(
        6, "RecBole's 4 makes ties, which early stopping takes for a lack of progress.", least=1, most=15
    )
    train_batch_size: int = setting(
        2048,
        "Rows of a training step. auto: the model's default, read in as many parts as fit in memory.",
        least=1, word="auto",
    )  # fmt: skip
    gradient_accumulation: int = setting(
        1, "Parts in which the rows of a training step are read; the gradient stays the same.", least=1
    )
    steps_per_epoch: int | None = setting(
        None, "Batches from one validation to the next; ~ is one pass over the train rows.", least=1
    )
    warmup_steps: int | None = setting(
        None,
        "With steps_per_epoch: steps of linear warm-up, after which the rate follows a cosine; ~ keeps it constant.",
        least=0,
    )
    min_lr_ratio: float = setting(0.08, "Where the cosine ends, as a share of learning_rate.", least=0, most=1)
    valid_fraction: float = setting(
        1.0, "Fixed random share of the valid rows scored during training; all are scored at the end.", above=0, most=1
    )
    max_steps: int | None = setting(None, "End the training after this many steps.", least=1)
    references: bool = setting(
        True,
        "Also score the test rows by the model's CF encoder and, for CoRA, by its LLM without weights.",
        shapes_results=False,
    )


@dataclass(frozen=True)
class Files:
    """Files."""

    checkpoint_dir: str = setting("saved", "Each run makes its own new folder here.", shapes_results=False)
    cache_dir: str = setting(
        ".cache", "Prompts as tokens, trained CF encoders and the tiny LLM, kept by content.", shapes_results=False
    )
    save_every: int | None = setting(
        100, "Steps from one saved training state to the next; ~: only when stopped.", least=1, shapes_results=False
    )
    keep_states: int = setting(2, "Saved training states that are kept.", least=1, shapes_results=False)
    keep_states_of_finished: bool = setting(
        False, "Keep a run's training states after it has finished.", shapes_results=False
    )
    resume: str | None = setting(
        None,
        "Folder of a run to resume. auto, or --resume alone: the last unfinished run of these settings, or a new one.",
        shapes_results=False,
    )
    checkpoint: str | None = setting(
        None,
        "Folder of an earlier run: score its model with its own settings instead of training one.",
        shapes_results=False,
    )
    save_scores: bool = setting(
        False,
        "Write scores.valid.csv and scores.test.csv: user, item, label, and logit or probability of each row.",
        shapes_results=False,
    )


GROUPS = (Rows, Training, Files)
