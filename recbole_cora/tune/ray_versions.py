"""The differences between Ray 2.6.3, which RecBole 1.2.1 pins, and Ray 2.50 or later, where there is no pin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
    from ray.tune import Callback

_CURRENT = hasattr(tune, "RunConfig")


def run_config(folder: str, callbacks: list[Callback], max_failures: int) -> Any:
    """Return the configuration of a search named "search" in `folder`, whose trials may fail `max_failures` times."""
    if _CURRENT:
        source: Any = tune
    else:
        from ray import air as source
    return source.RunConfig(
        name="search", storage_path=folder, verbose=0, callbacks=callbacks,
        failure_config=source.FailureConfig(max_failures=max_failures),
    )  # fmt: skip


def report(metrics: dict[str, float]) -> None:
    """Report metrics of the trial that runs in this process."""
    if _CURRENT:
        tune.report(metrics)
    else:
        from ray.air import session

        session.report(metrics)


def trial_id() -> str:
    """Return ray's id of the trial that runs in this process."""
    if _CURRENT:
        current: Any = tune
        name: str = current.get_context().get_trial_id()
    else:
        from ray.air import session

        name = session.get_trial_id()
    return name
