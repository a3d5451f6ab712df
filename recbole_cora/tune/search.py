"""The search itself, run by Ray Tune. Only this file and `ray_versions.py` import ray.

A trial is a run that reports its valid metric after each evaluation and never reads the test rows. If its process is
killed, another one resumes it from its last saved state. Each trial records its outcome in its own folder; nothing
that ray writes is read again, least of all its pickles. The frozen parts (prepared data, tokens, CF encoders) are made
before the first trial, and all trials read them from the cache. The weights of an LLM are mapped into memory that all
trials of a machine share.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from recbole_cora.errors import CoraError, SettingError, Stopped, WriteError
from recbole_cora.files import write_whole
from recbole_cora.tune.records import Metrics, Resources, Search, TrialRecord, Values
from recbole_cora.tune.space import Draw
from recbole_cora.tune.trials import DONE, ENDED, RunningTrial, note_end, note_waiting, read_trials

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

#: How often the killed process of a trial is replaced. A trial that raises an error is not retried.
_MOST_RESTARTS = 2


def run_search(search: Search, resources: Resources, folder: Path, *, address: str | None = None) -> None:
    """Run the trials that are not done. Each leaves `trials/<name>/trial.json`, which `trials.read_trials` reads.

    Args:
        folder: the search's folder, as an absolute path.
        address: the address of a ray cluster; None means this machine.

    Raises:
        SettingError: ray, the searcher or matplotlib is not installed; no cluster answers at the address; or no machine
            has the resources that a trial needs.
        WriteError: ray cannot write into the folder.
        Stopped: Ctrl-C, SIGTERM or SIGHUP came; the trials that were running keep the status "running".
    """
    _check_packages(local=not address)
    records = read_trials(folder)
    done_names = {record.name for record in records if record.status in DONE}
    trials = search.planned or {record.name: record.settings for record in records}
    waiting = {name: settings for name, settings in trials.items() if name not in done_names}
    draws = 0 if search.planned else search.num_samples - len(records)
    if not waiting and draws <= 0:
        return
    if not search.planned:
        _searcher(search, [])  # reports a missing package before ray starts
    note_waiting(folder, [record for record in records if record.name in waiting])
    try:
        with _ray(address, search.jobs * resources.cpus) as signals:
            try:
                _check_machines(resources, _machines())
                complete = not waiting or _run_planned(search, resources, folder, waiting)
                complete = complete and (draws <= 0 or _run_draws(search, resources, folder, draws))
            except KeyboardInterrupt:
                complete = False
    finally:
        shutil.rmtree(folder / "ray", ignore_errors=True)
    if not complete:
        count = sum(record.status in ENDED for record in read_trials(folder))
        raise Stopped(f"{count} trials have ended; resume the search with tune --resume={folder}", signals[-1])


def _check_packages(*, local: bool) -> None:
    """Check that ray and matplotlib are installed, and prepare the environment for ray.

    Raises:
        SettingError: one of them is not installed.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if local:
        # Despite its name it works on Linux too: ray's processes then listen on 127.0.0.1, not on every interface.
        # ray.init(_node_ip_address="127.0.0.1") does not achieve that. Ray reads the variable when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # ray 2.6.3 needs it; see pyproject.toml
    try:
        import matplotlib  # noqa: F401  (for the picture, at the end)
        import ray  # noqa: F401
    except ImportError as error:
        raise SettingError(f"a search needs {error.name}; install it: pip install 'recbole-cora[tune]'") from None


@contextmanager
def _ray(address: str | None, cpus: int) -> Iterator[list[int]]:
    """Run ray while the context lasts, on the cluster at `address` or, if it is None, on this machine with `cpus` CPUs.

    Yields:
        The signals that asked to stop; see `_interrupt_on_signals`.

    Raises:
        SettingError: ray does not start, or no cluster answers at the address.
    """
    import ray

    local: dict[str, Any] = {} if address else {"num_cpus": cpus}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Ray's processes inherit this, so that a closed terminal stops only the driver, which then stops them.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **local,
        )
    except (ConnectionError, ValueError) as error:
        signal.signal(signal.SIGHUP, handlers[signal.SIGHUP])
        why = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"no ray cluster answers at {address}" if address else "ray does not start"
        raise SettingError(f"{problem}: {why}") from None
    signals = _interrupt_on_signals(hangup=handlers[signal.SIGHUP] != signal.SIG_IGN)
    try:
        yield signals
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt_on_signals(*, hangup: bool) -> list[int]:
    """Make SIGTERM and SIGHUP stop ray's search as Ctrl-C does.

    Args:
        hangup: False leaves SIGHUP ignored, as under nohup.

    Returns:
        A list that collects the signals; its first entry is SIGINT, for a Ctrl-C.
    """
    signals = [int(signal.SIGINT)]

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal sends it twice
        signals.append(number)
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP) if hangup else (signal.SIGTERM,):
        signal.signal(number, interrupt)  # after ray.init, which sets its own handlers
    return signals


def _machines() -> list[dict[str, Any]]:
    """Return ray's description of each machine."""
    import ray

    machines: list[dict[str, Any]] = ray.nodes()
    return machines


def _check_machines(resources: Resources, machines: Sequence[Mapping[str, Any]]) -> None:
    """Raise SettingError if no machine has the resources of a trial: ray would silently wait for one forever."""
    offers = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(offer.get("CPU", 0) >= resources.cpus and offer.get("GPU", 0) >= resources.gpus for offer in offers):
        most = {kind: max((offer.get(kind, 0) for offer in offers), default=0) for kind in ("CPU", "GPU")}
        raise SettingError(
            f"a trial needs {resources.cpus} CPUs and {resources.gpus:g} GPUs, but no machine has them; the largest "
            f"have {most['CPU']:g} and {most['GPU']:g}: set --cpus= and --gpus="
        )


def _run_planned(search: Search, resources: Resources, folder: Path, trials: Mapping[str, Values]) -> bool:
    """Run planned trials; `trials` holds their settings by name. Returns True if all of them have ended."""
    from ray import tune

    entries = tune.grid_search([{"name": name, **settings} for name, settings in trials.items()])
    _fit(search, resources, folder, {"trial": entries}, 1, None)
    return {record.name for record in read_trials(folder) if record.status in ENDED} >= set(trials)


def _run_draws(search: Search, resources: Resources, folder: Path, count: int) -> bool:
    """Run `count` trials that a searcher draws one after the other. Returns True if all of them have ended."""
    earlier = read_trials(folder)
    names = {record.name for record in earlier}
    domains = {key: _domain(draw) for key, draw in search.space.items()}
    _fit(search, resources, folder, domains, count, _searcher(search, earlier))
    return sum(record.status in ENDED and record.name not in names for record in read_trials(folder)) == count


def _fit(
    search: Search,
    resources: Resources,
    folder: Path,
    space: Mapping[str, object],
    count: int,
    searcher: Searcher | None,
) -> None:
    """Let ray run `count` draws from `space`, which consists of ray's own domains.

    After Ctrl-C this returns normally, and ray calls the trials that were running terminated; the trials' own records
    say how far they got.

    Raises:
        WriteError: ray cannot write into the folder.
    """
    from ray import tune

    from recbole_cora.tune import ray_versions

    trainable = tune.with_parameters(run_trial, search=search, resources=resources, folder=str(folder))
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=search.metric, mode="max" if search.higher_is_better else "min", num_samples=count,
            search_alg=searcher, scheduler=_scheduler(search), max_concurrent_trials=search.jobs, reuse_actors=True,
        ),
        run_config=ray_versions.run_config(str(folder / "ray"), [_end_recorder(folder)], _MOST_RESTARTS),
    )  # fmt: skip
    try:
        tuner.fit()
    except (tune.TuneError, OSError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise WriteError(
            f"cannot write into {folder} ({cause.strerror}); make room, then resume with tune --resume={folder}"
        ) from None


def run_trial(config: Values, search: Search, resources: Resources, folder: str) -> None:
    """Run one trial in one of ray's processes; ray passes the `config`."""
    import torch

    from recbole_cora.quick_start import run
    from recbole_cora.training.microbatches import free_memory, is_out_of_memory
    from recbole_cora.tune import ray_versions

    # The thread of a trial that ASHA stops must end before the next trial begins. By default ray would wait 2 seconds
    # for it and then lose the next trial.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "600"
    torch.set_num_threads(resources.cpus)  # ray sets it to one
    os.chdir(search.working_dir)  # ray moves its workers elsewhere
    name, settings = _name_and_settings(config, ray_versions.trial_id())
    trial = RunningTrial(Path(folder), name, settings, search.higher_is_better)

    def report(epoch: int, metrics: Metrics) -> None:
        value = metrics[search.metric]
        assert value is not None  # the trainer refuses a valid metric that is undefined
        trial.add_evaluation(epoch, value)
        ray_versions.report({search.metric: value, "epoch": epoch})

    options = {**search.fixed, **settings, **resources.settings, "checkpoint_dir": str(trial.folder)}
    options |= {"show_progress": False, "resume": "auto"}
    try:
        result = run(search.model, search.dataset, options, on_valid=report, test=False)
        if "valid" in result:  # the training itself reported nothing
            report(len(result["curve"]), result["valid"])
        trial.finish()
    except Exception as error:  # recorded, not raised: other trials continue, and a retry would fail in the same way
        if isinstance(error, CoraError):
            why = str(error).splitlines()[0]
        elif is_out_of_memory(error):
            why = "out of memory"
        else:
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}; see error.txt"
        text = traceback.format_exc()
        with suppress(WriteError):  # the failure may be a full disk
            trial.fail(why)
            if not isinstance(error, CoraError):
                write_whole(trial.folder / "error.txt", lambda path: path.write_text(text, encoding="utf-8"))
        # Ray expects a final metric; the worst one keeps a searcher away from these settings.
        ray_versions.report({search.metric: float("-inf" if search.higher_is_better else "inf"), "epoch": 0})
    finally:
        free_memory()  # the next trial of this process loads an LLM of its own


def _name_and_settings(config: Values, ray_id: str) -> tuple[str, Values]:
    """Return a trial's name and settings. Draws of a searcher are named by ray's id, since two may be the same."""
    entry = config.get("trial")
    if isinstance(entry, dict):  # a planned trial
        return entry["name"], {key: value for key, value in entry.items() if key != "name"}
    return f"trial-{ray_id}", dict(config)


def _end_recorder(folder: Path) -> Callback:
    """Return a callback for ray that records how a trial ended if the trial cannot do so itself."""
    from ray.tune import Callback

    class EndRecorder(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: object) -> None:
            self._record(trial, "stopped early")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: object) -> None:
            self._record(trial, "failed", f"its process died {_MOST_RESTARTS + 1} times")

        def _record(self, trial: Any, status: str, why: str = "") -> None:
            with suppress(WriteError):  # a trial without a recorded end runs again
                note_end(folder, *_name_and_settings(trial.config, trial.trial_id), status, why)

    return EndRecorder()


def _domain(draw: Draw) -> object:
    """Return a draw as one of ray's domains."""
    from ray import tune

    return getattr(tune, draw.kind)(*([draw.values] if draw.kind == "choice" else draw.values))


def _searcher(search: Search, earlier: Sequence[TrialRecord]) -> Searcher:
    """Return a searcher that learns from trial to trial; optuna also learns from earlier trials.

    Raises:
        SettingError: its package is not installed.
    """
    seed = search.seed + len(earlier)  # a resumed search must not repeat its draws
    try:
        if search.method == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            scored_trials = [trial for trial in earlier if trial.best is not None]
            points = [trial.settings for trial in scored_trials]
            rewards = [trial.best for trial in scored_trials]
            return OptunaSearch(seed=seed, points_to_evaluate=points or None, evaluated_rewards=rewards or None)
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=seed)
    except (ImportError, AssertionError):
        raise SettingError(
            f"--search={search.method} needs a package; install it: pip install {search.method}"
        ) from None


def _scheduler(search: Search) -> TrialScheduler | None:
    """Return ASHA, which stops bad trials early, or None."""
    if search.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    # A trial ends by itself after its epochs. Without the extra one, a trial that reaches max_t would count as stopped.
    return ASHAScheduler(time_attr="epoch", max_t=search.epochs + 1, grace_period=1, reduction_factor=3)
