"""The search itself, by Ray Tune. The one file that imports ray.

A trial is a run that reports its validation after each evaluation, and never looks at the test rows. Where its process
is killed, another goes on from its last saved state. What became of it stands in its own folder: nothing of ray's is
read again, least of all its pickles. What is frozen is made before the first trial, and read by all of them from the
cache: prepared data, tokens, CF encoders; an LLM's weights are mapped into the memory that all trials of a machine
share.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole_cora.errors import CoraError, SettingError, Stopped, WriteError
from recbole_cora.files import write_whole
from recbole_cora.tune.space import Draw
from recbole_cora.tune.trials import DONE, ENDED, Trial, note_end, note_waiting, read_trials

#: A trial's process that was killed is replaced this often; what a run itself says is wrong is not tried again.
_LIVES = 2


def search(told: dict[str, Any], space: dict[str, Draw], folder: Path, *, address: str | None = None) -> None:
    """Run the trials that are not done; each leaves `trials/<name>/trial.json` (see `trials.read_trials`).

    Args:
        told: model, dataset, metric, bigger, epochs, `fixed` settings and those of the `device`, search, scheduler,
            num_samples, jobs, cpus, gpus, seed, `at` (the folder that relative paths are meant from); and where all are
            known beforehand, `drawn`: the settings of each trial by its name.
        folder: an absolute path.
        address: of a ray cluster; None: this machine.

    Raises:
        SettingError: ray, a searcher or matplotlib is not installed, no cluster at the address,
            or no machine that has what a trial is to be given.
        WriteError: the system does not let ray write into the folder.
        Stopped: Ctrl-C, SIGTERM or SIGHUP came; the trials that were running keep that status.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if not address:
        # Whatever its name says, on Linux too it makes ray's processes listen on 127.0.0.1 and not on every interface;
        # ray.init(_node_ip_address="127.0.0.1") does not. Ray reads it when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # ray 2.6.3 needs it; see pyproject.toml
    try:
        import matplotlib  # noqa: F401  (for the picture, at the end)
        import ray
    except ImportError as error:
        raise SettingError(f"a search needs {error.name}; install it: pip install 'recbole-cora[tune]'") from None
    known = read_trials(folder)
    begun = {trial["name"]: trial["settings"] for trial in known}
    done = {trial["name"] for trial in known if trial["status"] in DONE}
    waiting = {name: own for name, own in (told["drawn"] or begun).items() if name not in done}
    rounds = 0 if told["drawn"] else told["num_samples"] - len(begun)
    if not waiting and rounds <= 0:
        return
    _check(told)
    note_waiting(folder, [trial for trial in known if trial["name"] in waiting])
    local = {} if address else {"num_cpus": told["jobs"] * told["cpus"]}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Ray's processes inherit it: a closed terminal is for the driver alone, which ends them.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ray.init(
            address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **local
        )
    except (ConnectionError, ValueError) as error:
        signal.signal(signal.SIGHUP, handlers[signal.SIGHUP])
        why = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"no ray cluster answers at {address}" if address else "ray does not start"
        raise SettingError(f"{where}: {why}") from None
    signals = _stops_as_interrupt(hangup=handlers[signal.SIGHUP] != signal.SIG_IGN)
    try:
        _check_machines(told, ray.nodes())
        given = {"trial": [{"name": name, **own} for name, own in waiting.items()]}
        whole = not waiting or _fit(told, given, 1, folder)
        whole = whole and (rounds <= 0 or _fit(told, space, rounds, folder))
    except KeyboardInterrupt:
        whole = False
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(folder / "ray", ignore_errors=True)
    if not whole:
        ended = sum(trial["status"] in ENDED for trial in read_trials(folder))
        raise Stopped(f"{ended} trials have ended; tune --resume={folder} goes on", signals[-1])


def _check_machines(told: dict[str, Any], machines: list[dict[str, Any]]) -> None:
    """Ray would wait for ever, in silence, for what no machine has."""
    had = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(each.get("CPU", 0) >= told["cpus"] and each.get("GPU", 0) >= told["gpus"] for each in had):
        most = {kind: max((each.get(kind, 0) for each in had), default=0) for kind in ("CPU", "GPU")}
        raise SettingError(
            f"a trial is to have {told['cpus']} CPUs and {told['gpus']:g} GPUs, and no machine has; the largest have "
            f"{most['CPU']:g} and {most['GPU']:g}: set --cpus= and --gpus="
        )


def _stops_as_interrupt(*, hangup: bool) -> list[int]:
    """SIGTERM and SIGHUP end ray's search as Ctrl-C does.

    Args:
        hangup: whether SIGHUP does; under nohup it is ignored.

    Returns:
        The signals so far, with Ctrl-C before them all.
    """
    signals = [int(signal.SIGINT)]

    def interrupt(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal sends it twice
        signals.append(number)
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP) if hangup else (signal.SIGTERM,):
        signal.signal(number, interrupt)  # after ray.init, which sets its own
    return signals


def _fit(told: dict[str, Any], space: dict[str, Any], rounds: int, folder: Path) -> bool:
    """Ray's own search: over given trials, or over draws that a searcher makes. Returns whether all have ended.

    Raises:
        WriteError: the system does not let ray write into the folder.
    """
    from ray import air, tune

    given = "trial" in space
    before = set() if given else {note["name"] for note in read_trials(folder)}
    trainable = tune.with_parameters(trial, told=told, folder=str(folder))
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": told["cpus"], "gpu": told["gpus"]}),
        param_space={key: tune.grid_search(draw) if given else _domain(draw) for key, draw in space.items()},
        tune_config=tune.TuneConfig(
            metric=told["metric"], mode="max" if told["bigger"] else "min", num_samples=rounds,
            search_alg=None if given else _searcher(told, read_trials(folder)), scheduler=_scheduler(told),
            max_concurrent_trials=told["jobs"], reuse_actors=True,
        ),
        run_config=air.RunConfig(
            name="search", storage_path=str(folder / "ray"), verbose=0, callbacks=[_watch(folder)],
            failure_config=air.FailureConfig(max_failures=_LIVES),
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    except (tune.TuneError, OSError) as error:
        refusal: BaseException | None = error
        while refusal is not None and not isinstance(refusal, OSError):
            refusal = refusal.__cause__
        if refusal is None:
            raise
        raise WriteError(
            f"cannot write into {folder} ({refusal.strerror}); make room, and go on with tune --resume={folder}"
        ) from None
    # Where it was ended by Ctrl-C, ray calls what was running terminated: the trials' own notes count.
    names = [each["name"] for each in space["trial"]] if given else None
    ended = [note for note in read_trials(folder) if note["status"] in ENDED and note["name"] not in before]
    return len(ended) == rounds if names is None else {note["name"] for note in ended} >= set(names)


def trial(settings: dict[str, Any], told: dict[str, Any], folder: str) -> None:
    """One run in a process of ray's."""
    import torch
    from ray.air import session

    from recbole_cora.quick_start import run
    from recbole_cora.training.microbatches import free_memory, is_out_of_memory

    # Of a trial that ASHA stops, the thread ends before the next begins; ray would wait 2 seconds, and lose the next.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "600"
    torch.set_num_threads(told["cpus"])  # ray leaves it one
    os.chdir(told["at"])  # ray moves its workers elsewhere
    name, own = _named(settings, session.get_trial_id())
    noted = Trial(Path(folder), name, own, told["bigger"])

    def report(epoch: int, result: dict[str, float | None]) -> None:
        value = result[told["metric"]]
        assert value is not None  # the trainer says so
        noted.evaluated(epoch, value)
        session.report({told["metric"]: value, "epoch": epoch})

    options = {**told["fixed"], **own, **told["device"], "checkpoint_dir": str(noted.folder)}
    options |= {"show_progress": False, "resume": "auto"}
    try:
        result = run(told["model"], told["dataset"], options, on_valid=report, test=False)
        if "valid" in result:  # training had nothing to report
            report(len(result["curve"]), result["valid"])
        noted.finished()
    except Exception as error:  # noted, not raised: the other trials go on, and it would only end so again
        if isinstance(error, CoraError):
            why = str(error).splitlines()[0]
        elif is_out_of_memory(error):
            why = "out of memory"
        else:
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}; see error.txt"
        text = traceback.format_exc()
        with suppress(WriteError):  # a full disk may be what it failed of
            noted.failed(why)
            if not isinstance(error, CoraError):
                write_whole(noted.folder / "error.txt", lambda path: path.write_text(text, encoding="utf-8"))
        # Ray wants a last word, and a searcher is to stay away from here.
        session.report({told["metric"]: float("-inf" if told["bigger"] else "inf"), "epoch": 0})
    finally:
        free_memory()  # the next trial of this process brings an LLM of its own


def _named(settings: dict[str, Any], number: str) -> tuple[str, dict[str, Any]]:
    """A trial's name and settings: given, or drawn by a searcher, which may draw the same twice."""
    if "trial" in settings:
        own = dict(settings["trial"])
        return own.pop("name"), own
    return f"trial-{number}", dict(settings)


def _watch(folder: Path) -> Any:
    """A callback of ray's that notes the ends which a trial does not see itself."""
    from ray.tune import Callback

    class Watch(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._note(trial, "stopped early")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._note(trial, "failed", f"its process died {_LIVES + 1} times")

        def _note(self, trial: Any, status: str, why: str = "") -> None:
            with suppress(WriteError):  # what has no note is run again
                note_end(folder, *_named(trial.config, trial.trial_id), status, why)

    return Watch()


def _domain(draw: Draw) -> Any:
    """A draw in ray's terms."""
    from ray import tune

    return getattr(tune, draw.kind)(*([draw.values] if draw.kind == "choice" else draw.values))


def _searcher(told: dict[str, Any], known: list[dict[str, Any]]) -> Any:
    """A searcher that learns from trial to trial; optuna also from those that are known."""
    seed = told["seed"] + len(known)  # gone on with, it is not to draw the same again
    try:
        if told["search"] == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            known = [trial for trial in known if trial["best"] is not None]
            points, rewards = [trial["settings"] for trial in known], [trial["best"] for trial in known]
            return OptunaSearch(seed=seed, points_to_evaluate=points or None, evaluated_rewards=rewards or None)
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=seed)
    except (ImportError, AssertionError):
        raise SettingError(f"--search={told['search']} needs it: pip install {told['search']}") from None


def _scheduler(told: dict[str, Any]) -> Any:
    if told["scheduler"] == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    # A trial ends by itself after its epochs; what ends at max_t would count as stopped.
    return ASHAScheduler(time_attr="epoch", max_t=told["epochs"] + 1, grace_period=1, reduction_factor=3)


def _check(told: dict[str, Any]) -> None:
    """Before ray is started: refuse a searcher that is not installed."""
    if not told["drawn"]:
        _searcher(told, [])
