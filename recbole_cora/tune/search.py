"""The search itself, by Ray Tune. The one file that imports ray.

A trial is a run that reports its validation after each evaluation, and never looks at the test rows. It goes on from
its last saved state where its process was killed. What is frozen is made before the first trial, and read from the
cache by all of them: prepared data, tokens, CF encoders; an LLM's weights are mapped into memory once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_cora.errors import CoraError, SettingError, nearest
from recbole_cora.tune.space import Draw

SEARCHES = ("random", "grid", "optuna", "hyperopt")
SCHEDULERS = ("none", "asha")
#: A process that was killed is replaced this often; what a run itself says is wrong is not tried again.
_LIVES = 2


def search(
    told: dict[str, Any],
    space: dict[str, Draw],
    folder: Path,
    on_change: Callable[[list[dict[str, Any]]], None],
    *,
    address: str | None,
    resume: bool,
) -> list[dict[str, Any]]:
    """Run the trials, or go on with them.

    Args:
        told: model, dataset, metric, `fixed` settings, search, scheduler, num_samples, jobs, gpus, seed.
        folder: where ray keeps its own; an absolute path.
        on_change: called with all trials whenever one has ended.
        address: of a ray cluster; None: this machine.

    Returns:
        The trials (see `trials.write_trials`).

    Raises:
        SettingError: ray or a searcher is not installed, or an unknown search or scheduler.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray
        from ray import air, tune
    except ImportError:
        raise SettingError("a search needs ray; install it: pip install 'recbole-cora[tune]'") from None
    cpus = max(1, (os.cpu_count() or 1) // told["jobs"])
    ray.init(
        address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        **({} if address else {"num_cpus": max(told["jobs"] * cpus, 1)}),
    )  # fmt: skip
    try:
        trainable = tune.with_resources(
            tune.with_parameters(trial, told=told, folder=str(folder)), {"cpu": cpus, "gpu": told["gpus"]}
        )
        kept = folder / "ray" / "search"
        if resume:
            if not tune.Tuner.can_restore(str(kept)):
                raise SettingError(f"{folder} holds no search to go on with; give the folder of an earlier one")
            tuner = tune.Tuner.restore(str(kept), trainable=trainable, resume_unfinished=True, resume_errored=True)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={key: _drawn(tune, told["search"], draw) for key, draw in space.items()},
                tune_config=tune.TuneConfig(
                    metric=told["metric"], mode="max", num_samples=told["num_samples"], search_alg=_searcher(told),
                    scheduler=_scheduler(told["scheduler"]), max_concurrent_trials=told["jobs"], reuse_actors=True,
                ),
                run_config=air.RunConfig(
                    name="search", storage_path=str(folder / "ray"), verbose=0,
                    callbacks=[_watch(on_change, told["metric"])],
                    failure_config=air.FailureConfig(max_failures=_LIVES),
                ),
            )  # fmt: skip
        grid = tuner.fit()
        return [_told_of(trial, told["metric"]) for trial in grid._experiment_analysis.trials or ()]
    finally:
        ray.shutdown()


def trial(settings: dict[str, Any], told: dict[str, Any], folder: str) -> None:
    """One run in a process of ray's."""
    from ray.air import session

    from recbole_cora.microbatches import is_out_of_memory
    from recbole_cora.quick_start import run

    os.chdir(folder)  # ray moves its workers elsewhere; data and caches are here
    own = Path(folder) / "trials" / str(session.get_trial_name())
    seen: list[float] = []

    def report(result: dict[str, float]) -> None:
        seen.append(result[told["metric"]])
        session.report({told["metric"]: seen[-1], "evaluations": list(seen), "why": ""})

    options = {**told["fixed"], **settings, "checkpoint_dir": str(own), "show_progress": False, "resume": "auto"}
    try:
        run(told["model"], told["dataset"], options, on_valid=report, test=False)
    except Exception as error:
        if not isinstance(error, CoraError) and not is_out_of_memory(error):
            raise
        why = str(error).splitlines()[0] if isinstance(error, CoraError) else "out of memory"
        # Reported, not raised: trying again would not mend it.
        session.report({told["metric"]: seen[-1] if seen else float("-inf"), "evaluations": list(seen), "why": why})


def _watch(on_change: Callable[[list[dict[str, Any]]], None], metric: str) -> Any:
    """A callback of ray's that tells of every trial that has ended."""
    from ray.tune import Callback

    class Watch(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_change([_told_of(each, metric) for each in trials])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_change([_told_of(each, metric) for each in trials])

    return Watch()


def _told_of(trial: Any, metric: str) -> dict[str, Any]:
    """A ray trial in our words."""
    last = trial.last_result or {}
    evaluations, why = list(last.get("evaluations") or []), last.get("why") or ""
    status = {"TERMINATED": "finished", "ERROR": "failed"}.get(trial.status, trial.status.lower())
    if why:
        status = "failed"
    elif status == "failed":
        text = (Path(trial.error_file).read_text(errors="replace") if trial.error_file else "").strip()
        why = text.splitlines()[-1] if text else "its process died"
    return {
        "name": str(trial), "status": status, "why": why, "settings": dict(trial.config),
        "best": max(evaluations, default=None) if status != "failed" else None, "evaluations": evaluations,
        "seconds": float(last.get("time_total_s") or 0.0),
    }  # fmt: skip


def _drawn(tune: Any, kind: str, draw: Draw) -> Any:
    if kind == "grid":
        if draw.kind != "choice":
            raise SettingError(f"--search=grid takes choices; a setting is drawn by {draw.kind}")
        return tune.grid_search(draw.values)
    return getattr(tune, draw.kind)(draw.values) if draw.kind == "choice" else getattr(tune, draw.kind)(*draw.values)


def _searcher(told: dict[str, Any]) -> Any:
    kind, seed = told["search"], told["seed"]
    if kind not in SEARCHES:
        raise SettingError(f"search is '{kind}'{nearest(str(kind), SEARCHES)}; expected one of {', '.join(SEARCHES)}")
    try:
        if kind == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            return OptunaSearch(seed=seed)
        if kind == "hyperopt":
            from ray.tune.search.hyperopt import HyperOptSearch

            return HyperOptSearch(random_state_seed=seed)
    except (ImportError, AssertionError):
        raise SettingError(f"--search={kind} needs {kind}; install it: pip install {kind}") from None
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=seed)


def _scheduler(kind: str) -> Any:
    if kind not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise SettingError(f"scheduler is '{kind}'{nearest(str(kind), SCHEDULERS)}; expected one of {known}")
    if kind == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(grace_period=1, reduction_factor=3)
