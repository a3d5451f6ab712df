"""The folder of a run: a new one of its own, or that of a run to go on with.

run.json                      the settings it was begun with
training-<step>.safetensors   states of the training, the last ones
model.safetensors             the best weights so far
result.json                   once the run is finished
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from recbole_cora.errors import CheckpointError
from recbole_cora.files import write_json
from recbole_cora.settings import CoraConfig

_BEGUN, _RESULT = "run.json", "result.json"


def open_folder(config: CoraConfig) -> Path:
    """The folder that `resume` asks for; a new one where it asks for none, or for `auto` and there is none.

    Raises:
        CheckpointError: no such run, one that is finished, or one of other settings (the first of them is named).
    """
    wanted, settings = config["resume"], _settings(config)
    if wanted and wanted != "auto":
        folder = Path(wanted)
        for key, value in _begun(folder).items():
            if settings.get(key) != value:
                raise CheckpointError(
                    f"{folder} was begun with {key}={value!r}, here it is {settings.get(key)!r}; "
                    "use the same settings, or begin a new run"
                )
        if (folder / _RESULT).is_file():
            raise CheckpointError(f"{folder} is finished; --checkpoint={folder} scores it again")
        return folder
    parent, prefix = Path(config["checkpoint_dir"]), f"{config['model']}-{config['dataset']}-"
    if wanted == "auto":
        begun = (path.parent for path in parent.glob(f"{prefix}*/{_BEGUN}"))
        open_ones = [folder for folder in begun if not (folder / _RESULT).is_file() and _begun(folder) == settings]
        if open_ones:
            return max(open_ones, key=lambda folder: (folder / _BEGUN).stat().st_mtime_ns)
    # Time and chance, so that runs of one second do not share a folder.
    folder = parent / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    write_json(folder / _BEGUN, settings)
    return folder


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a run that ended before there was anything to keep."""
    if {path.name for path in folder.iterdir()} <= {_BEGUN}:
        (folder / _BEGUN).unlink(missing_ok=True)
        folder.rmdir()


def _settings(config: CoraConfig) -> dict[str, Any]:
    """What must be the same for a run to go on; `max_steps` may be another."""
    content = {"dataset": config["dataset"], **config.content()}
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
