"""Settings of every model: properties/overall.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_cora.settings.kinds import setting

METRICS = ("AUC", "UAUC", "LogLoss", "MAE", "RMSE")


@dataclass(frozen=True)
class Rows:
    """Rows: the ratings that are used, their labels and their splits (recbole_cora/data/ratings.py)."""

    eval_args: dict[str, object] = setting(
        {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "labeled"},
        "How rows are split and scored. split: shares of train, valid and test, cut in time from each user's rows; not "
        "used if <name>.train.inter, <name>.valid.inter and <name>.test.inter exist. mode must stay labeled.",
    )
    threshold: dict[str, object] | None = setting(
        {"rating": 4},
        "Label 1 if the column is at least this value, else 0; not used if there is a label column.",
    )
    title_field: str | None = setting(
        None, "Column of <name>.item with the titles; ~ tries title, movie_title, item_title, name and book_title."
    )
    history_items: int = setting(
        10, "Number of latest liked items in a prompt and in the co-liking features; the paper uses 10.", least=0
    )


@dataclass(frozen=True)
class Training:
    """Training and evaluation."""

    metrics: list[str] = setting(
        ["AUC", "UAUC", "LogLoss"],
        "Computed on labelled rows. UAUC: mean AUC over users with both classes.",
        one_of=METRICS,
    )
    valid_metric: str = setting("AUC", "Metric for early stopping.", one_of=METRICS)
    metric_decimal_place: int = setting(
        6,
        "Decimal places of the metrics. RecBole's 4 create ties, and early stopping counts a tie as no progress.",
        least=1,
        most=15,
    )
    train_batch_size: int = setting(
        2048,
        "Rows per training step. auto: the model's default, split into smaller parts if memory runs out.",
        least=1, word="auto",
    )  # fmt: skip
    gradient_accumulation: int = setting(
        1, "Number of parts into which the rows of a training step are split; the gradient stays the same.", least=1
    )
    steps_per_epoch: int | None = setting(
        None, "Batches between two validations; ~ means one pass over the train rows.", least=1
    )
    warmup_steps: int | None = setting(
        None,
        "Steps of linear warm-up, followed by a cosine decay; needs steps_per_epoch. ~: a constant learning rate.",
        least=0,
    )
    min_lr_ratio: float = setting(
        0.08, "Final learning rate of the cosine decay, as a share of learning_rate.", least=0, most=1
    )
    valid_fraction: float = setting(
        1.0,
        "Share of the valid rows, drawn at random once, that is scored during training.",
        above=0,
        most=1,
    )
    max_steps: int | None = setting(None, "Stop training after this many steps.", least=1)
    score_valid: bool = setting(
        True, "Also score all valid rows at the end; False saves their time with a large LLM.", shapes_results=False
    )
    references: bool = setting(
        True,
        "Also score the test rows with the model's CF encoder alone and, for CoRA, with its LLM alone.",
        shapes_results=False,
    )


@dataclass(frozen=True)
class Files:
    """Files."""

    checkpoint_dir: str = setting("saved", "Folder in which each run creates a new folder.", shapes_results=False)
    cache_dir: str = setting(
        ".cache",
        "Folder for tokenised prompts, trained CF encoders and the tiny LLM, each under a key of its content.",
        shapes_results=False,
    )
    save_every: int | None = setting(
        100,
        "Steps between two saved training states; ~ saves one only when the run is stopped.",
        least=1,
        shapes_results=False,
    )
    keep_states: int = setting(2, "Number of latest training states to keep.", least=1, shapes_results=False)
    keep_states_of_finished: bool = setting(
        False, "Keep the training states of a run after it has finished.", shapes_results=False
    )
    resume: str | None = setting(
        None,
        "Folder of a run to resume. auto, or --resume without a value: the last unfinished run with these settings, "
        "else a new one.",
        shapes_results=False,
    )
    checkpoint: str | None = setting(
        None,
        "Folder of an earlier run. Its model is scored with its settings, and nothing is trained.",
        shapes_results=False,
    )
    save_scores: bool = setting(
        False,
        "Write scores.valid.csv and scores.test.csv: each row's user, item, label, and logit or probability.",
        shapes_results=False,
    )


GROUPS = (Rows, Training, Files)
