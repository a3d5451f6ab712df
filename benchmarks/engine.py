"""Measure what per-pair weights cost in scoring, training and ranking, compared with other methods.

    python benchmarks/engine.py [--preset=tiny|cpu|smollm2|wide|7b] [--device=cpu|cuda] [--rounds=7] [--out=FILE.json]

A Llama with random weights reads random prompts of 60 to 194 tokens in batches of 16 (7b: 64). Each round times every
way once, so that a slow moment of the machine affects all of them. A ratio is the median over rounds of (this way / the
base) within a round. benchmarks/README.md explains the output.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from tqdm import tqdm
from ways import PRESETS, Ways

from recbole_cora.llm import hub

Way = Callable[[], None]


def time_call(way: Way, device: torch.device) -> float:
    """Return the seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started


class Table:
    """The seconds of each way in each round."""

    def __init__(self, title: str, ways: dict[str, Way], rounds: int, device: torch.device) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in tqdm(range(rounds + 1), desc=title, unit="round"):
            for name, way in ways.items():
                seconds = time_call(way, device)
                if number:  # the first round is a warm-up
                    self.seconds[name].append(seconds)

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of the ratio within a round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 4)

    def ratios(self, base: str) -> dict[str, float]:
        """Return the ratio of every way to the base."""
        return {name: self.ratio(name, base) for name in self.seconds}


def scoring_ways(ways: Ways, *, small: bool, in_bfloat16: bool) -> dict[str, Way]:
    """Return the ways of scoring by their names in the report.

    Args:
        small: include the ways that need too much time or memory with a large LLM.
    """
    scoring: dict[str, Way] = {"frozen, padded": ways.frozen}
    if small:
        scoring |= {"frozen, padded, full logits": ways.frozen_full_logits, "frozen, bucketed": ways.frozen_bucketed}
        scoring |= {"peft, one adapter": ways.peft_adapter(), "peft, an adapter a sample": ways.peft_mixed()}
        scoring |= {"W + dW, pair by pair": ways.merged_one_by_one(), "dense dW, padded": ways.dense()}
        scoring |= {"(x A) B, padded": ways.two_products()}
    scoring |= {"frozen, packed": ways.frozen_packed, "CoRA, weights given": ways.apply_weights, "CoRA": ways.cora}
    if in_bfloat16:
        scoring |= {"frozen, packed, bfloat16": ways.in_bfloat16(False), "CoRA, bfloat16": ways.in_bfloat16(True)}
    return scoring


def training_ways(ways: Ways) -> dict[str, Way]:
    """Return the ways of training by their names in the report."""
    return {
        "peft LoRA, padded": ways.train_peft(),
        "CoRA": ways.train_cora(),
        "CoRA, recomputed": ways.train_cora(recompute=True),
        "CoRA on the question": ways.train_cora(on_question=True),
        "CoRA on the question, first epoch": ways.train_cora(on_question=True, first_epoch=True),
    }


def peak_memory(ways: Ways, name: str) -> float:
    """Return the MB that a training step allocates in addition to weights and optimizer state."""
    way = training_ways(ways)[name]
    way()
    if ways.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # returns what the first step has freed to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before = _process_memory("VmRSS")
    way()
    return _process_memory("VmHWM") - before


def _process_memory(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match.group(1)) / 1024


def _memory_by_process(options: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of each way, measured in a process of its own so that peaks do not mix."""
    memory = {}
    for name in ("peft LoRA, padded", "CoRA", "CoRA, recomputed", "CoRA on the question"):
        command = [sys.executable, __file__, f"--preset={options.preset}", f"--device={options.device}"]
        answer = subprocess.run([*command, f"--memory-of={name}"], check=True, capture_output=True, text=True)
        memory[name] = round(float(answer.stdout.split()[-1]), 1)
    return memory


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / statistics.median(time_call(lambda: a @ a, device) for _ in range(8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ways = Ways(options.preset, options.device, batch=64 if options.preset == "7b" else 16,
                batches={"wide": 1, "7b": 2}.get(options.preset, 4))  # fmt: skip
    if options.memory_of:
        print(peak_memory(ways, options.memory_of))
        return

    # Without bfloat16 units a processor's kernels convert every number, and a pass takes hours.
    skipped = [] if hub.has_bfloat16_units(ways.device) else ["bfloat16: this device has no bfloat16 units"]
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    in_bfloat16 = ways.dtype != torch.bfloat16 and not skipped
    scoring = scoring_ways(ways, small=options.preset in ("tiny", "cpu"), in_bfloat16=in_bfloat16)
    score = Table("score", scoring, options.rounds, ways.device)
    train = Table("train", training_ways(ways), options.rounds, ways.device)
    ranking: dict[str, Way] = {"prompt": lambda: ways.rank(False), "question": lambda: ways.rank(True)}
    rank = Table("rank", ranking, options.rounds, ways.device)
    memory = _memory_by_process(options)

    base, peft = "frozen, padded", "peft LoRA, padded"
    flops = 2 * ways.parameters * sum(map(len, ways.prompts))
    seconds = statistics.median(score.seconds["frozen, packed"])
    ratios: dict[str, float] = {
        "score_frozen_packed": score.ratio("frozen, packed", base),
        "score_cora": score.ratio("CoRA", base),
        "score_cora_over_frozen": score.ratio("CoRA", "frozen, packed"),
        "apply_over_frozen": score.ratio("CoRA, weights given", "frozen, packed"),
        "train_cora_over_peft": train.ratio("CoRA", peft),
        "train_question_over_peft": train.ratio("CoRA on the question", peft),
        "train_memory_cora_over_peft": round(memory["CoRA"] / memory[peft], 4),
        "train_memory_recomputed_over_peft": round(memory["CoRA, recomputed"] / memory[peft], 4),
        "rank100_question_over_prompt": rank.ratio("question", "prompt"),
        # The pruned last block counts in full, so this can slightly exceed what is really computed.
        "share_of_matrix_rate": round(flops / seconds / matrix_rate(ways.device, ways.dtype), 4),
    }
    if in_bfloat16:
        ratios["score_cora_bf16"] = score.ratio("CoRA, bfloat16", base)
    result: dict[str, object] = {
        "preset": options.preset, "device": options.device, "torch": torch.__version__, "rounds": options.rounds,
        "ratios": ratios, "score over frozen, padded": score.ratios(base), "train over peft": train.ratios(peft),
        "rank over prompt": rank.ratios("prompt"), "MB of a training step": memory, "skipped": skipped,
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
