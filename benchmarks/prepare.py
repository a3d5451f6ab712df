"""Measure time and memory of `recbole-cora prepare` on synthetic raw files of several sizes.

    python benchmarks/prepare.py [--rows=1000000,5000000] [--out=FILE.json]

For each size, write an Amazon-like dump, prepare it in a separate process, and print seconds, rows per second and peak
memory. The dump has 500 bytes per line, and users and items are long-tailed. All its reviews are in the wanted year,
which is the worst case.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

START, SECONDS = 1_483_228_800, 365 * 86_400  # 2017


def write_dump(folder: Path, rows: int) -> None:
    """Write reviews of rows/8 users and rows/40 items, and the items' metadata."""
    random = np.random.default_rng(0)
    users, items = rows // 8, rows // 40
    text = "It was a dark and stormy night. " * 10
    with (folder / "reviews.json").open("w") as file:
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            user = (users * random.random(count) ** 3).astype(int)
            item = (items * random.random(count) ** 3).astype(int)
            stars, time = random.integers(1, 6, count), START + random.integers(0, SECONDS, count)
            file.writelines(
                f'{{"reviewerID": "A{u:013}", "asin": "{i:010}", "reviewerName": "Somebody", "helpful": [0, 1], '
                f'"reviewText": "{text}", "overall": {s}.0, "summary": "Read it", "unixReviewTime": {t}}}\n'
                for u, i, s, t in zip(user, item, stars, time, strict=True)
            )
    with (folder / "meta.json").open("w") as file:
        file.writelines(
            f"{{'asin': '{i:010}', 'title': 'Book {i}', 'categories': [['Books']]}}\n" for i in range(items)
        )


def measure(folder: Path, rows: int) -> dict[str, float]:
    """Prepare once, in this process, and return the measurements."""
    from recbole_cora.cli import main

    started = perf_counter()
    files = [f"--raw-reviews={folder}/reviews.json", f"--raw-metadata={folder}/meta.json", f"--out={folder}/out"]
    assert main(["prepare", "amazon-book", *files, "--quiet"]) == 0
    seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_mb": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000,5000000")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(part) for part in options.rows.split(",")]
    if options.measure:
        print(json.dumps(measure(options.measure, sizes[0])))
        return
    results = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_dump(Path(folder), rows)
            command = [sys.executable, __file__, f"--measure={folder}", f"--rows={rows}"]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(results[-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
