"""Kill a training run at random moments, resume it each time, and compare it with an uninterrupted run.

    python benchmarks/kills.py --model=CoRA --dataset=ml-100k --kills=20 --save_every=1

Every other kill waits until a state is being written. After the last kill, the run is resumed to its end. All scores in
result.json, the training curve included, must be the same bit for bit, and so must the weights. Other `--key=value`
settings go to the run.
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

from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from recbole_cora.settings.reading import parse_arguments

#: Entries of a result that may differ: time, memory and the paths of files.
_MAY_DIFFER = ("seconds", "peak_memory_mb", "config")


def run_command(settings: list[str], folder: Path) -> list[str]:
    """Return the command of a run in `folder`; it resumes an earlier run."""
    options = [f"--checkpoint_dir={folder}", "--resume=auto", "--show_progress=False"]
    return [sys.executable, "-m", "recbole_cora.cli", "run", *settings, *options]


def result_of(folder: Path) -> dict[str, object]:
    """Return the result of a finished run, without the entries that may differ, and its weights as bytes."""
    (path,) = folder.glob("*/result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    weights = load_file(path.parent / "model.safetensors")
    return {
        **{key: value for key, value in result.items() if key not in _MAY_DIFFER},
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    }


def loads(path: Path) -> bool:
    """Tell whether a state is complete."""
    with safe_open(path, framework="pt") as file:
        return all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118  (not a dict)


def run_to_end(settings: list[str], folder: Path) -> None:
    """Run, or resume, until the training has finished."""
    command = run_command(settings, folder)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    kills, seed = options.pop("kills", 20), options.pop("kill_seed", 0)
    settings = [f"--{key}={json.dumps(value)}" for key, value in options.items()]
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole_run, timed_run, killed_run, log = (
            Path(temporary) / name for name in ("whole", "timed", "killed", "log.txt")
        )
        run_to_end(settings, whole_run)
        started = time.monotonic()  # times a second run, whose frozen parts are cached, as the killed run's are
        run_to_end(settings, timed_run)
        duration = time.monotonic() - started
        kill_count = during_write = 0
        bar = tqdm(total=kills, unit="kill")
        while kill_count < kills:
            with log.open("w") as output:
                process = subprocess.Popen(run_command(settings, killed_run), stdout=output, stderr=output)
            states = set(killed_run.glob("*/training-*"))
            while process.poll() is None and not set(killed_run.glob("*/training-*")) - states:
                time.sleep(0.005)  # a kill before the next state would prove little
            if kill_count % 2:
                while process.poll() is None and not any(killed_run.glob("*/.training-*")):
                    pass
            else:
                time.sleep(draw.uniform(0, duration / kills / 2))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                sys.exit(f"after {kill_count} kills the run ended on its own:\n{log.read_text()[-2000:]}")
            kill_count += 1
            during_write += any(killed_run.glob("*/.*"))
            assert all(loads(path) for path in killed_run.glob("*/training-*"))
            bar.update()
        bar.close()
        run_to_end(settings, killed_run)
        expected, result = result_of(whole_run), result_of(killed_run)
        differing = [key for key in expected if expected[key] != result[key]]
    epochs = len(expected["curve"])
    print(f"{kill_count} kills, {during_write} of them during a write; {epochs} epochs; test {result['test']}")
    print(f"different: {', '.join(differing)}" if differing else "the same bit for bit: weights, curve, metrics")
    return len(differing)


if __name__ == "__main__":
    sys.exit(main())
