"""What do per-pair weights cost? Scoring and training, side by side with the ways others do it.

    python benchmarks/engine.py [--preset=tiny|cpu|7b] [--device=cpu|cuda] [--rounds=7] [--out=FILE.json]

A Llama with random weights reads random prompts of 60 to 194 tokens in batches of 16. In each round every way is timed
once, so that a slow moment of the machine hits all of them; a ratio is the median over rounds of (this way / the base)
within a round. Base of `score_*`: the frozen Hugging Face model on the right-padded batch in float32, last position
only, two rows of the head. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.generator import CollaborativeWeightsGenerator
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import wrap_tokenizer
from recbole_cora.llm.tiny import train_tokenizer

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 128, "layers": 2, "heads": 4, "intermediate": 344, "vocab": 4000, "generator": (128, 2, 256)},
    "cpu": {"hidden": 512, "layers": 8, "heads": 8, "intermediate": 1376, "vocab": 32000, "generator": (512, 8, 3072)},
    "7b": {
        "hidden": 4096,
        "layers": 32,
        "heads": 32,
        "intermediate": 11008,
        "vocab": 32000,
        "generator": (512, 8, 3072),
    },
}
BATCH, BATCHES, MEMORY, RANK = 16, 4, 512, 16


class Bench:
    """The parts, and one function per way of scoring or training."""

    def __init__(self, preset: str, device: str) -> None:
        sizes, self.device = PRESETS[preset], torch.device(device)
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=sizes["vocab"], hidden_size=sizes["hidden"], num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"], num_key_value_heads=sizes["heads"],
            intermediate_size=sizes["intermediate"], max_position_embeddings=1024, attn_implementation="sdpa",
        )  # fmt: skip
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.plain = transformers.LlamaForCausalLM(config).to(self.device, self.dtype).eval().requires_grad_(False)
        tokenizer = wrap_tokenizer(train_tokenizer(["Answer with Yes or No. #Answer: Yes"] * 9, 300), 1024)
        self.llm = FrozenLLM(copy.deepcopy(self.plain), tokenizer, preset)
        assert self.llm.packed and self.llm.pruned
        self.targets = weight_targets(self.llm.model, "qkvo")
        hidden, blocks, feed_forward = sizes["generator"]
        self.generator = CollaborativeWeightsGenerator(
            MEMORY, {t.d_in for t in self.targets}, [(t.name, t.d_in, t.d_out) for t in self.targets], rank=RANK,
            hidden=hidden, blocks=blocks, feed_forward=feed_forward,
        ).to(self.device)  # fmt: skip
        for B in self.generator.L_B.values():
            torch.nn.init.normal_(B, std=0.02)
        draw = torch.Generator().manual_seed(0)
        lengths = torch.randint(60, 195, (BATCH * BATCHES,), generator=draw).tolist()
        vocabulary = sizes["vocab"]
        self.prompts = [torch.randint(3, vocabulary, (length,), generator=draw).tolist() for length in lengths]
        self.memory = torch.randn(len(lengths), 1, MEMORY, generator=draw).to(self.device)
        self.labels = torch.randint(0, 2, (len(lengths),), generator=draw).float().to(self.device)
        with torch.no_grad():
            self.weights = self.generator.eval()(self.memory)
        rows = torch.tensor(self.llm.answer_ids, device=self.device)
        self.head = self.plain.lm_head.weight[rows].float()

    # -- scoring: [N] ------------------------------------------------------------------------------------------------

    def batches(self) -> list[range]:
        return [range(start, start + BATCH) for start in range(0, len(self.prompts), BATCH)]

    def padded(self, model: Any, batch: Any, **options: Any) -> Tensor:
        """Last position, two rows of the head, on a right-padded batch."""
        lengths = [len(self.prompts[n]) for n in batch]
        ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        for row, n in enumerate(batch):
            ids[row, : lengths[row]] = torch.tensor(self.prompts[n])
        mask = torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]
        hidden = model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False, **options)
        last = hidden.last_hidden_state[torch.arange(len(lengths)), torch.tensor(lengths) - 1].float()
        return (last @ self.head.T).diff(dim=1)[:, 0]

    @torch.no_grad()
    def frozen_padded(self) -> None:
        for batch in self.batches():
            self.padded(self.plain.model, batch)

    @torch.no_grad()
    def frozen_full_logits(self) -> None:
        for batch in self.batches():
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(self.prompts[n]) for n in batch], batch_first=True)
            self.plain(input_ids=ids.to(self.device), attention_mask=(ids > 0).to(self.device), use_cache=False)

    @torch.no_grad()
    def frozen_bucketed(self) -> None:
        order = sorted(range(len(self.prompts)), key=lambda n: len(self.prompts[n]))
        for batch in self.batches():
            self.padded(self.plain.model, [order[n] for n in batch])

    @torch.no_grad()
    def frozen_packed(self) -> None:
        self.llm.score(self.prompts)

    @torch.no_grad()
    def apply_packed(self) -> None:
        self.llm.score(self.prompts, self.targets, self.weights)

    @torch.no_grad()
    def cora_packed(self) -> None:
        self.llm.score(self.prompts, self.targets, self.generator.eval()(self.memory))

    @torch.no_grad()
    def cora_padded(self) -> None:
        self.llm.packed = False
        try:
            for batch in self.batches():
                weights = self.weights.select(list(batch))
                self.llm.score([self.prompts[n] for n in batch], self.targets, weights)
        finally:
            self.llm.packed = True

    @torch.no_grad()
    def merged_one_by_one(self) -> None:
        """W + dW written into a copy, one pair at a time."""
        model = self.scratch
        for n in range(BATCH):
            for target in self.scratch_targets:
                target.module.weight += self.weights.delta(target, n).T.to(self.dtype)
            self.padded(model.model, [n])
            for target in self.scratch_targets:
                target.module.weight -= self.weights.delta(target, n).T.to(self.dtype)

    # -- other ways --------------------------------------------------------------------------------------------------

    def prepare_others(self) -> None:
        """Copies for merging and for peft."""
        import peft

        self.scratch = copy.deepcopy(self.plain)
        self.scratch_targets = weight_targets(self.scratch, "qkvo")
        options = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
        config = peft.LoraConfig(**options, lora_dropout=0.05)
        self.peft = peft.get_peft_model(copy.deepcopy(self.plain), config)
        mixed = peft.get_peft_model(copy.deepcopy(self.plain), peft.LoraConfig(**options), adapter_name="0")
        for n in range(1, BATCH):
            mixed.add_adapter(str(n), peft.LoraConfig(**options))
        self.mixed = mixed.eval()
        self.peft_optimizer = torch.optim.AdamW([p for p in self.peft.parameters() if p.requires_grad], lr=1e-4)
        self.cora_optimizer = torch.optim.AdamW(self.generator.parameters(), lr=1e-4)

    @torch.no_grad()
    def peft_static(self) -> None:
        self.peft.eval()
        for batch in self.batches():
            self.padded(self.peft.base_model.model.model, batch)

    @torch.no_grad()
    def peft_mixed(self) -> None:
        for batch in self.batches():
            names = [str(n) for n in range(BATCH)]
            with self.mixed.base_model._enable_peft_forward_hooks(adapter_names=names):
                self.padded(self.mixed.base_model.model.model, batch)

    # -- training: one step on one batch -----------------------------------------------------------------------------

    def train_peft(self) -> None:
        """A static LoRA; loss at the last position."""
        self.peft.train()
        scores = self.padded(self.peft.base_model.model.model, range(BATCH))
        self._step(scores, self.peft_optimizer)

    def train_cora(self) -> None:
        weights: PairWeights = self.generator.train()(self.memory[:BATCH])
        self._step(self.llm.score(self.prompts[:BATCH], self.targets, weights), self.cora_optimizer)

    def _step(self, scores: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        binary_cross_entropy_with_logits(scores, self.labels[:BATCH]).backward()
        optimizer.step()


def timed(way: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started


def rounds(ways: dict[str, Callable[[], None]], base: str, count: int, device: torch.device) -> dict[str, float]:
    """Median over rounds of each way's time over the base's in the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count + 1):
        for name, way in ways.items():
            passed = timed(way, device)
            if number:  # the first round warms up
                seconds[name].append(passed)
        print(f"round {number} of {count}", file=sys.stderr, flush=True)
    return {
        name: statistics.median(t / b for t, b in zip(times, seconds[base], strict=True))
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bench = Bench(options.preset, options.device)
    bench.prepare_others()
    scoring = {
        "frozen, padded": bench.frozen_padded, "frozen, full logits": bench.frozen_full_logits,
        "frozen, bucketed": bench.frozen_bucketed, "frozen, packed": bench.frozen_packed,
        "peft, one adapter": bench.peft_static, "peft, an adapter a sample": bench.peft_mixed,
        "CoRA, padded": bench.cora_padded, "CoRA, weights given": bench.apply_packed, "CoRA": bench.cora_packed,
    }  # fmt: skip
    score = rounds(scoring, "frozen, padded", options.rounds, bench.device)
    train = rounds({"peft": bench.train_peft, "CoRA": bench.train_cora}, "peft", options.rounds, bench.device)
    ratios = {
        "score_frozen_packed": score["frozen, packed"],
        "score_cora": score["CoRA"],
        "score_cora_over_frozen": score["CoRA"] / score["frozen, packed"],
        "apply_over_frozen": score["CoRA, weights given"] / score["frozen, packed"],
        "train_cora_over_peft": train["CoRA"],
    }
    result = {"preset": options.preset, "device": options.device, "score": score, "train": train, "ratios": ratios}
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
