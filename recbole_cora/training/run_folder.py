"""The folder of a run: a new one of its own, or that of a run to go on with.

run.json                      the settings it was begun with
training-<step>.safetensors   states of the training, the last ones
model.safetensors             the best weights so far
result.json                   once the run is finished
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from recbole_cora import processes
from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.files import check_writable, held, hidden_folder, write_json
from recbole_cora.settings.recbole_config import CoraConfig

log = logging.getLogger()

_BEGUN, _RESULT = "run.json", "result.json"
_ROOM = "make room there"
_ROOM_OR_ELSEWHERE = f"{_ROOM}, or give another --checkpoint_dir="


def check(config: CoraConfig) -> None:
    """Refuse, before anything long, what `opened` would refuse after it.

    Raises:
        CheckpointError: `resume` names no run, or one that is finished.
        WriteError: the run's folder cannot be written.
    """
    named = _named(config)
    if named:
        _begun(named)
        _refuse_finished(named)
        check_writable(named, _ROOM)
    else:
        check_writable(Path(config["checkpoint_dir"]), _ROOM_OR_ELSEWHERE)


@contextmanager
def opened(config: CoraConfig) -> Iterator[Path]:
    """The folder that `resume` asks for; a new one where it asks for none, or for `auto` and there is none.

    While the context lasts it is this run's alone. A new one is removed where the run ends with nothing to keep.

    Raises:
        CheckpointError: no such run, one that is finished, that another process is at, or one of other settings (the
            first of them is named).
        WriteError: the folder cannot be made, or what the run writes in it cannot be written.
    """
    with ExitStack() as holds:
        folder = processes.made_by_main(lambda: _open(config, holds))
        try:
            yield folder
        except BaseException as error:
            if processes.is_main() and {path.name for path in folder.iterdir()} <= {_BEGUN}:
                (folder / _BEGUN).unlink(missing_ok=True)
                folder.rmdir()
            if isinstance(error, WriteError) and str(folder) in str(error):
                raise WriteError(f"{error}; {_ROOM if _named(config) else _ROOM_OR_ELSEWHERE}") from None
            raise


def _open(config: CoraConfig, holds: ExitStack) -> Path:
    folder, settings = _named(config), _settings(config)
    if folder:
        for key, value in _begun(folder).items():
            if settings.get(key) != value:
                raise CheckpointError(
                    f"{folder} was begun with {key}={value!r}, here it is {settings.get(key)!r}; "
                    "use the same settings, or begin a new run"
                )
        if not holds.enter_context(held(folder)):
            raise CheckpointError(f"another process is at {folder}; wait until it ends, or begin a new run")
        _refuse_finished(folder)
        return _tidied(folder)
    parent, prefix = Path(config["checkpoint_dir"]), f"{config['model']}-{config['dataset']}-"
    if _wanted(config):
        for folder in _runs(parent, prefix, settings):
            if (folder / _RESULT).is_file():
                continue
            if holds.enter_context(held(folder)):
                if (folder / _RESULT).is_file():  # finished just now
                    continue
                return _tidied(folder)
            log.warning(f"another process is at {folder}; this run does not go on with it")
    while True:
        # Time and chance, so that runs of one second do not share a folder.
        folder = parent / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with ExitStack() as attempt:
            try:
                hidden = attempt.enter_context(hidden_folder(parent, folder.name))
                write_json(hidden / _BEGUN, settings)
                hidden.rename(folder)
            except OSError as error:
                if folder.exists():
                    continue
                raise WriteError(f"cannot write {folder} ({error.strerror}); {_ROOM_OR_ELSEWHERE}") from None
            except WriteError as error:
                raise WriteError(f"{str(error).replace(str(hidden), str(folder))}; {_ROOM_OR_ELSEWHERE}") from None
            holds.enter_context(attempt.pop_all())  # held under its new name until the run ends
        return folder


def _runs(parent: Path, prefix: str, settings: dict[str, Any]) -> list[Path]:
    """Folders of runs with these settings, the newest first. A damaged one is passed over, with a warning."""
    times = {}
    for path in parent.glob(f"{prefix}*/{_BEGUN}"):
        try:
            if _begun(path.parent) == settings:
                times[path.parent] = path.stat().st_mtime_ns
        except DamagedError as error:
            log.warning(f"{error}; this run is not resumed")
        except (CheckpointError, OSError):  # removed just now, or another user's
            continue
    return sorted(times, key=lambda folder: times[folder], reverse=True)


def _wanted(config: CoraConfig) -> str | None:
    """A folder, "auto", or None."""
    value = config["resume"]
    return None if value in (None, False) else "auto" if value is True else str(value)


def _named(config: CoraConfig) -> Path | None:
    """The folder that `resume` names; None where it is "auto" or nothing."""
    wanted = _wanted(config)
    return Path(wanted) if wanted and wanted != "auto" else None


def _refuse_finished(folder: Path) -> None:
    if (folder / _RESULT).is_file():
        raise CheckpointError(f"{folder} is finished; --checkpoint={folder} scores it again")


def _tidied(folder: Path) -> Path:
    """Without the unfinished files of a process that was killed while it wrote."""
    for left in folder.glob(".*.*"):
        left.unlink()
    return folder


def _settings(config: CoraConfig) -> dict[str, Any]:
    """What must be the same for a run to be resumed; `max_steps` may be another."""
    content = {"model": config["model"], "dataset": config["dataset"], **config.content()}
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in content.items() if k != "max_steps"}))
    return found


def _begun(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with. Raises CheckpointError, DamagedError."""
    try:
        settings = json.loads((folder / _BEGUN).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no run to go on with: cannot read its {_BEGUN} ({error.strerror}); give the folder of a run"
        ) from None
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise DamagedError(f"{folder / _BEGUN} is damaged; begin a new run")
    return settings
