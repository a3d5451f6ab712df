"""Kill a training at random moments, go on with it each time, and compare its end with that of one left alone.

    python benchmarks/kills.py --model=CoRA --dataset=ml-100k --kills=20 --save_every=1

Every other kill waits for a state that is being written. The last one is followed by a run to the end. Everything that
result.json says of scores, the training curve included, must be the same bit for bit, and so must the weights. Other
`--key=value` settings go to the run.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from recbole_cora.settings.reading import parse_arguments

#: What may differ: how long it took, with how much memory, and where its files lie.
_OTHER = ("seconds", "peak_memory_mb", "config")


def command(settings: list[str], folder: str) -> list[str]:
    own = [f"--checkpoint_dir={folder}", "--resume=auto", "--show_progress=False"]
    return [sys.executable, "-m", "recbole_cora.cli", "run", *settings, *own]


def ended(folder: Path) -> dict[str, Any]:
    """What a finished run says, and its weights."""
    (path,) = folder.glob("*/result.json")
    found = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in _OTHER}
    weights = load_file(path.parent / "model.safetensors")
    return {**found, "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()}}


def loads(path: Path) -> bool:
    """Whether a state is whole."""
    with safe_open(path, framework="pt") as file:
        return all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118  (not a dict)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    kills, seed = options.pop("kills", 20), options.pop("kill_seed", 0)
    settings = [f"--{key}={json.dumps(value)}" for key, value in options.items()]
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        alone, killed, log = (Path(temporary) / name for name in ("alone", "killed", "log.txt"))
        subprocess.run(command(settings, str(alone)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()  # again, all frozen parts made: how long is it?
        subprocess.run(
            command(settings, str(Path(temporary) / "again")), check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        whole = time.monotonic() - started
        done = amid_write = 0
        bar = tqdm(total=kills, unit="kill")
        while done < kills:
            with log.open("w") as said:
                process = subprocess.Popen(command(settings, str(killed)), stdout=said, stderr=said)
            known = set(killed.glob("*/training-*"))
            while process.poll() is None and not set(killed.glob("*/training-*")) - known:
                time.sleep(0.005)  # a kill before it has gone a step further would say little
            if done % 2:
                while process.poll() is None and not any(killed.glob("*/.training-*")):
                    pass
            else:
                time.sleep(draw.uniform(0, whole / kills / 2))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                sys.exit(f"after {done} kills the run ended by itself:\n{log.read_text()[-2000:]}")
            done += 1
            amid_write += any(killed.glob("*/.*"))
            assert all(loads(path) for path in killed.glob("*/training-*"))
            bar.update()
        bar.close()
        subprocess.run(command(settings, str(killed)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        one, other = ended(alone), ended(killed)
        differing = [key for key in one if one[key] != other[key]]
    print(f"{done} kills, {amid_write} of them amid a write; {len(one['curve'])} epochs; test {other['test']}")
    print(f"not the same: {', '.join(differing)}" if differing else "the same bit for bit: weights, curve, metrics")
    return len(differing)


if __name__ == "__main__":
    sys.exit(main())
