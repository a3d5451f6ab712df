"""The search itself, by Ray Tune. The one file that imports ray.

A trial is a run that reports its validation after each evaluation, and never looks at the test rows. It goes on from
its last saved state where its process was killed. What became of it stands in its own folder: nothing of ray's is read
again, least of all its pickles. What is frozen is made before the first trial, and read from the
cache by all of them: prepared data, tokens, CF encoders; an LLM's weights are mapped into memory once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_cora.errors import CoraError, SettingError, nearest
from recbole_cora.tune.space import Draw
from recbole_cora.tune.trials import ENDED, Trial, note_end, read_trials

SCHEDULERS = ("none", "asha")
#: A process that was killed is replaced this often; what a run itself says is wrong is not tried again.
_LIVES = 2


def search(
    told: dict[str, Any],
    space: dict[str, Draw],
    folder: Path,
    on_end: Callable[[], None],
    *,
    address: str | None = None,
) -> None:
    """Run the trials that have not ended; each leaves `trials/<name>/trial.json` (see `trials.read_trials`).

    Args:
        told: model, dataset, metric, `fixed` settings, search, scheduler, num_samples, jobs, gpus, seed; and where all
            are known beforehand, `drawn`: the settings of each trial by its name.
        folder: an absolute path.
        on_end: called whenever a trial has ended.
        address: of a ray cluster; None: this machine.

    Raises:
        SettingError: ray or a searcher is not installed, or an unknown search or scheduler.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray
        from ray import air, tune
    except ImportError:
        raise SettingError("a search needs ray; install it: pip install 'recbole-cora[tune]'") from None
    ended = {trial["name"]: trial for trial in read_trials(folder) if trial["status"] in ENDED}
    if told["drawn"]:
        waiting = [{"name": name, **own} for name, own in told["drawn"].items() if name not in ended]
        drawn: dict[str, Any] = {"trial": tune.grid_search(waiting)}
        rounds = 1 if waiting else 0
    else:
        drawn = {
            key: getattr(tune, d.kind)(*([d.values] if d.kind == "choice" else d.values)) for key, d in space.items()
        }
        rounds = told["num_samples"] - len(ended)
    if not rounds:
        return
    searcher, scheduler = _searcher(told, list(ended.values())), _scheduler(told["scheduler"])
    cpus = max(1, (os.cpu_count() or 1) // told["jobs"])
    ray.init(
        address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        **({} if address else {"num_cpus": told["jobs"] * cpus}),
    )  # fmt: skip
    try:
        trainable = tune.with_parameters(trial, told=told, folder=str(folder))
        grid = tune.Tuner(
            tune.with_resources(trainable, {"cpu": cpus, "gpu": told["gpus"]}),
            param_space=drawn,
            tune_config=tune.TuneConfig(
                metric=told["metric"], mode="max", num_samples=rounds, search_alg=searcher, scheduler=scheduler,
                max_concurrent_trials=told["jobs"], reuse_actors=True,
            ),
            run_config=air.RunConfig(
                name="search", storage_path=str(folder / "ray"), verbose=0, callbacks=[_watch(on_end)],
                failure_config=air.FailureConfig(max_failures=_LIVES),
            ),
        ).fit()  # fmt: skip
        for each in grid._experiment_analysis.trials or ():
            own, name = _named(each.config, each.trial_id)
            died = each.status == "ERROR"
            if died or told["scheduler"] != "none":
                note_end(folder, name, own, *(("failed", "its process died") if died else ("stopped early", "")))
    finally:
        ray.shutdown()


def trial(settings: dict[str, Any], told: dict[str, Any], folder: str) -> None:
    """One run in a process of ray's."""
    from ray.air import session

    from recbole_cora.microbatches import is_out_of_memory
    from recbole_cora.quick_start import run

    os.chdir(folder)  # ray moves its workers elsewhere; data and caches are here
    own, name = _named(settings, session.get_trial_id())
    noted = Trial(Path(folder), name, own)

    def report(result: dict[str, float]) -> None:
        noted.evaluated(result[told["metric"]])
        session.report({told["metric"]: result[told["metric"]]})

    options = {**told["fixed"], **own, "checkpoint_dir": str(noted.folder), "show_progress": False, "resume": "auto"}
    try:
        result = run(told["model"], told["dataset"], options, on_valid=report, test=False)
        noted.finished(result["valid"][told["metric"]])
    except Exception as error:  # noted, not raised, where trying again would not mend it
        if isinstance(error, CoraError):
            noted.failed(str(error).splitlines()[0])
        elif is_out_of_memory(error):
            noted.failed("out of memory")
        else:
            noted.failed(f"{type(error).__name__}: {error}")
            raise
        session.report({told["metric"]: float("-inf")})  # ray wants a last word, and a searcher is to stay away


def _named(settings: dict[str, Any], number: str) -> tuple[dict[str, Any], str]:
    """A trial's settings and name: drawn beforehand, or by ray's searcher."""
    if "trial" in settings:
        own = dict(settings["trial"])
        return own, own.pop("name")
    return dict(settings), f"trial-{number}"


def _watch(on_end: Callable[[], None]) -> Any:
    """A callback of ray's that tells when a trial has ended."""
    from ray.tune import Callback

    class Watch(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_end()

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_end()

    return Watch()


def _searcher(told: dict[str, Any], ended: list[dict[str, Any]]) -> Any:
    """A searcher that learns from trial to trial, also those that have ended; None where all are drawn beforehand."""
    kind, seed = told["search"], told["seed"]
    known = [trial for trial in ended if trial["best"] is not None]
    points = [trial["settings"] for trial in known] or None
    try:
        if kind == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            rewards = [trial["best"] for trial in known] or None
            return OptunaSearch(seed=seed, points_to_evaluate=points, evaluated_rewards=rewards)
        if kind == "hyperopt":
            from ray.tune.search.hyperopt import HyperOptSearch

            return HyperOptSearch(random_state_seed=seed)
    except (ImportError, AssertionError):
        raise SettingError(f"--search={kind} needs {kind}; install it: pip install {kind}") from None
    return None


def _scheduler(kind: str) -> Any:
    if kind not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise SettingError(f"scheduler is '{kind}'{nearest(str(kind), SCHEDULERS)}; expected one of {known}")
    if kind == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(grace_period=1, reduction_factor=3)
