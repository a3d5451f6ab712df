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
from recbole_cora.config import CoraConfig
from recbole_cora.errors import CheckpointError, SettingError
from recbole_cora.files import held, write_json

log = logging.getLogger()

_BEGUN, _RESULT = "run.json", "result.json"


def check(config: CoraConfig) -> None:
    """Before anything long: raises CheckpointError where `resume` names no run, or one that is finished."""
    wanted = _wanted(config)
    if wanted and wanted != "auto":
        _begun(Path(wanted))
        _refuse_finished(Path(wanted))


@contextmanager
def opened(config: CoraConfig) -> Iterator[Path]:
    """The folder that `resume` asks for; a new one where it asks for none, or for `auto` and there is none.

    While the context lasts it is this run's alone. A new one is removed where the run ends with nothing to keep.

    Raises:
        CheckpointError: no such run, one that is finished, that another process is at, or one of other settings (the
            first of them is named).
        SettingError: no folder can be made in `checkpoint_dir`.
    """
    with ExitStack() as holds:
        folder = processes.made_by_main(lambda: _open(config, holds))
        try:
            yield folder
        except BaseException:
            if processes.is_main() and {path.name for path in folder.iterdir()} <= {_BEGUN}:
                (folder / _BEGUN).unlink(missing_ok=True)
                folder.rmdir()
            raise


def _open(config: CoraConfig, holds: ExitStack) -> Path:
    wanted, settings = _wanted(config), _settings(config)
    if wanted and wanted != "auto":
        folder = Path(wanted)
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
    if wanted == "auto":
        begun = sorted(parent.glob(f"{prefix}*/{_BEGUN}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for folder in (path.parent for path in begun if _begun(path.parent) == settings):
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
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise SettingError(f"cannot make {folder} ({error.strerror}); give another --checkpoint_dir=") from None
        holds.enter_context(held(folder))
        write_json(folder / _BEGUN, settings)
        return folder


def _wanted(config: CoraConfig) -> str | None:
    """A folder, "auto", or None."""
    value = config["resume"]
    return None if value in (None, False) else "auto" if value is True else str(value)


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
    try:
        found: dict[str, Any] = json.loads((folder / _BEGUN).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no run to go on with: cannot read its {_BEGUN} ({error.strerror}); give the folder of a run"
        ) from None
    except ValueError:
        raise CheckpointError(f"{folder / _BEGUN} is damaged; begin a new run") from None
    return found
