"""The folder of a run: a new one, or that of an interrupted run to resume.

run.json                      the settings that the run was started with
training-<step>.safetensors   the latest training states
model.safetensors             the best weights so far
result.json                   once the run is finished
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from recbole_cora import processes
from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.files import check_writable, hidden_folder, try_lock, write_json
from recbole_cora.settings.recbole_config import CoraConfig

log = logging.getLogger()

_SETTINGS, _RESULT = "run.json", "result.json"
_ROOM = "make room there"
_ROOM_OR_ELSEWHERE = f"{_ROOM}, or give another --checkpoint_dir="


def check(config: CoraConfig) -> None:
    """Refuse what `claim` would refuse, before any long computation.

    Raises:
        CheckpointError: `resume` names a folder that is not a run's, or whose run is finished.
        WriteError: the run's folder cannot be written.
    """
    folder = _folder_to_resume(config)
    if folder:
        _read_settings(folder)
        _refuse_finished(folder)
        check_writable(folder, _ROOM)
    else:
        check_writable(Path(config["checkpoint_dir"]), _ROOM_OR_ELSEWHERE)


@contextmanager
def claim(config: CoraConfig) -> Iterator[Path]:
    """Open and lock the folder that the setting `resume` selects, for as long as the context lasts.

    Without `resume`, or with `resume: auto` and no run to resume, it is a new folder. If the run ends with an
    error and has left nothing in the folder, the folder is removed.

    Raises:
        CheckpointError: there is no such run, it is finished, another process is using it, or it was started with other
            settings, the first of which is named.
        WriteError: the folder cannot be made, or the run cannot write its files there.
    """
    with ExitStack() as locks:
        folder = processes.broadcast_from_main(lambda: _open(config, locks))
        try:
            yield folder
        except BaseException as error:
            if processes.is_main() and {path.name for path in folder.iterdir()} <= {_SETTINGS}:
                (folder / _SETTINGS).unlink(missing_ok=True)
                folder.rmdir()
            if isinstance(error, WriteError) and str(folder) in str(error):
                raise WriteError(f"{error}; {_ROOM if _folder_to_resume(config) else _ROOM_OR_ELSEWHERE}") from None
            raise


def _open(config: CoraConfig, locks: ExitStack) -> Path:
    settings = _settings(config)
    if folder := _folder_to_resume(config):
        return _reopen(folder, settings, locks)
    parent, prefix = Path(config["checkpoint_dir"]), f"{config['model']}-{config['dataset']}-"
    if _resume(config) and (latest := _reopen_latest(parent, prefix, settings, locks)):
        return latest
    return _make(parent, prefix, settings, locks)


def _reopen(folder: Path, settings: Mapping[str, object], locks: ExitStack) -> Path:
    """Lock and return the folder that the user named. Raises CheckpointError if it cannot be resumed."""
    for key, value in _read_settings(folder).items():
        if settings.get(key) != value:
            raise CheckpointError(
                f"{folder} was started with {key}={value!r}, here it is {settings.get(key)!r}; "
                "use the same settings, or start a new run"
            )
    if not locks.enter_context(try_lock(folder)):
        raise CheckpointError(f"another process is using {folder}; wait until it ends, or start a new run")
    _refuse_finished(folder)
    _remove_leftovers(folder)
    return folder


def _reopen_latest(parent: Path, prefix: str, settings: Mapping[str, object], locks: ExitStack) -> Path | None:
    """Lock and return the folder of the latest unfinished run with these settings; None if there is none."""
    for folder in _runs(parent, prefix, settings):
        if (folder / _RESULT).is_file():
            continue
        if locks.enter_context(try_lock(folder)):
            if (folder / _RESULT).is_file():  # finished just now
                continue
            _remove_leftovers(folder)
            return folder
        log.warning(f"another process is using {folder}; it is not resumed")
    return None


def _make(parent: Path, prefix: str, settings: Mapping[str, object], locks: ExitStack) -> Path:
    """Make a new folder, with the run's settings in it, and lock it. Raises WriteError."""
    while True:
        # Time and a random number, so that runs started in the same second do not share a folder.
        folder = parent / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with ExitStack() as attempt:
            try:
                hidden = attempt.enter_context(hidden_folder(parent, folder.name))
                write_json(hidden / _SETTINGS, settings)
                hidden.rename(folder)
            except OSError as error:
                if folder.exists():
                    continue
                raise WriteError(f"cannot write {folder} ({error.strerror}); {_ROOM_OR_ELSEWHERE}") from None
            except WriteError as error:
                raise WriteError(f"{str(error).replace(str(hidden), str(folder))}; {_ROOM_OR_ELSEWHERE}") from None
            locks.enter_context(attempt.pop_all())  # stays locked under its new name until the run ends
        return folder


def _runs(parent: Path, prefix: str, settings: Mapping[str, object]) -> list[Path]:
    """Return the folders of runs with these settings, latest first. A damaged one is skipped with a warning."""
    times = {}
    for path in parent.glob(f"{prefix}*/{_SETTINGS}"):
        try:
            if _read_settings(path.parent) == settings:
                times[path.parent] = path.stat().st_mtime_ns
        except DamagedError as error:
            log.warning(f"{error}; this run is not resumed")
        except (CheckpointError, OSError):  # removed just now, or another user's
            continue
    return sorted(times, key=lambda folder: times[folder], reverse=True)


def _resume(config: CoraConfig) -> str | None:
    """Return the setting `resume`: a folder, "auto", or None."""
    value = config["resume"]
    return None if value in (None, False) else "auto" if value is True else str(value)


def _folder_to_resume(config: CoraConfig) -> Path | None:
    """Return the folder that the setting `resume` names; None if it is "auto" or not set."""
    resume = _resume(config)
    return Path(resume) if resume and resume != "auto" else None


def _refuse_finished(folder: Path) -> None:
    if (folder / _RESULT).is_file():
        raise CheckpointError(f"{folder} is finished; --checkpoint={folder} scores it again")


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of a process that was killed while it was writing."""
    for path in folder.glob(".*.*"):
        path.unlink()


def _settings(config: CoraConfig) -> dict[str, object]:
    """Return the settings that must be the same for a run to be resumed; `max_steps` may differ."""
    content = {"model": config["model"], "dataset": config["dataset"], **config.content()}
    settings: dict[str, object] = json.loads(json.dumps({k: v for k, v in content.items() if k != "max_steps"}))
    return settings


def _read_settings(folder: Path) -> dict[str, object]:
    """Return the settings that a run was started with. Raises CheckpointError, DamagedError."""
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be resumed: cannot read its {_SETTINGS} ({error.strerror}); give the folder of a run"
        ) from None
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise DamagedError(f"{folder / _SETTINGS} is damaged; start a new run")
    return settings
