"""The ways of scoring, training and ranking that `engine.py` compares, on a frozen LLM with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.generator import CollaborativeWeightsGenerator
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import WeightTarget, weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.hub import wrap_tokenizer
from recbole_cora.llm.prefix import PrefixCache
from recbole_cora.llm.reading import Reading
from recbole_cora.llm.tiny import train_tokenizer

if TYPE_CHECKING:
    import peft


@dataclass(frozen=True)
class Preset:
    """Sizes of the Llama, and of the generator: hidden, blocks, feed-forward. kv_heads: None means as many as heads."""

    d: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    generator: tuple[int, int, int]
    kv_heads: int | None = None


PRESETS = {
    "tiny": Preset(d=128, layers=2, heads=4, intermediate=344, vocab=4000, generator=(128, 2, 256)),
    "cpu": Preset(d=512, layers=8, heads=8, intermediate=1376, vocab=32000, generator=(512, 8, 3072)),
    "smollm2": Preset(d=576, layers=30, heads=9, intermediate=1536, vocab=49152, generator=(512, 8, 3072), kv_heads=3),
    "wide": Preset(d=2048, layers=3, heads=16, intermediate=5504, vocab=8000, generator=(512, 8, 3072)),
    "7b": Preset(d=4096, layers=32, heads=32, intermediate=11008, vocab=32000, generator=(512, 8, 3072)),
}
SHORTEST, LONGEST, QUESTION, CANDIDATES = 60, 194, 36, 100
MEMORY, RANK = 512, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Ways:
    """One random Llama, prompts for it, and a method for each way.

    Args:
        preset: a name of PRESETS.
        device: cpu, where the LLM is in float32, or cuda, where it is in bfloat16.
        batch: prompts per batch.
        batches: batches per scoring pass.
    """

    def __init__(self, preset: str, device: str, batch: int, batches: int) -> None:
        sizes, self.device, self.batch = PRESETS[preset], torch.device(device), batch
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=sizes.vocab, hidden_size=sizes.d, num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads or sizes.heads,
            intermediate_size=sizes.intermediate, max_position_embeddings=1024, attn_implementation="sdpa",
        )  # fmt: skip
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        with self.device:
            self.plain = transformers.LlamaForCausalLM(config).to(self.dtype).eval().requires_grad_(False)
        self.parameters = sum(p.numel() for p in self.plain.model.layers.parameters())
        self.llm = self._frozen(self._copy_sharing_weights())
        self.targets = weight_targets(self.llm.model, "qkvo")
        hidden, blocks, feed_forward = sizes.generator
        self.generator = CollaborativeWeightsGenerator(
            MEMORY, self.targets, rank=RANK,
            hidden=hidden, blocks=blocks, feed_forward=feed_forward,
        ).to(self.device)  # fmt: skip
        for B in self.generator.L_B.values():
            torch.nn.init.normal_(B, std=0.02)
        draw = torch.Generator().manual_seed(0)
        count = batch * batches
        lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=draw).tolist()
        self.prompts = [self._random(length, draw) for length in lengths]
        self.questions = [length - QUESTION for length in lengths]
        history = self._random(LONGEST - QUESTION, draw)  # the longest history, of one user
        self.candidates = [history + self._random(QUESTION, draw) for _ in range(CANDIDATES)]
        self.memory = torch.randn(max(count, CANDIDATES), 1, MEMORY, generator=draw).to(self.device)
        self.labels = torch.randint(0, 2, (count,), generator=draw).float().to(self.device)
        with torch.no_grad():
            self.weights = self.generator.eval()(self.memory[:count])
        self.head = self.plain.lm_head.weight[list(self.llm.answer_ids)].float()
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), lr=1e-4)

    def _random(self, length: int, draw: torch.Generator) -> list[int]:
        return torch.randint(3, self.plain.config.vocab_size, (length,), generator=draw).tolist()

    def _copy_sharing_weights(self) -> transformers.LlamaForCausalLM:
        """Return a copy of the model that shares its weights."""
        tensors = [*self.plain.parameters(), *self.plain.buffers()]
        return copy.deepcopy(self.plain, {id(tensor): tensor for tensor in tensors})

    def _frozen(self, model: transformers.LlamaForCausalLM) -> FrozenLLM:
        tokenizer = wrap_tokenizer(train_tokenizer(["Answer with Yes or No. #Answer: Yes"] * 9, 300), 1024)
        llm = FrozenLLM(model, tokenizer, "random Llama")
        assert llm.reading == Reading(packed=True, pruned=True, shares_prefixes=True)
        return llm

    def _batches(self) -> list[range]:
        return [range(start, start + self.batch) for start in range(0, len(self.prompts), self.batch)]

    # -- scoring as others do it -------------------------------------------------------------------------------------

    def _score_padded(self, model: torch.nn.Module, batch: Sequence[int]) -> Tensor:
        """Score a right-padded batch with the last position and two rows of the head [N]."""
        ids, lengths = self._pad(batch)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        states = model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False)
        last = states.last_hidden_state[torch.arange(len(lengths)), lengths - 1].float()
        return (last @ self.head.T).diff(dim=1)[:, 0]

    def _pad(self, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(self.prompts[n]) for n in batch]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    @torch.no_grad()
    def frozen(self) -> None:
        for batch in self._batches():
            self._score_padded(self.plain.model, batch)

    @torch.no_grad()
    def frozen_full_logits(self) -> None:
        for batch in self._batches():
            ids, _ = self._pad(batch)
            self.plain(input_ids=ids.to(self.device), attention_mask=(ids > 0).to(self.device), use_cache=False)

    @torch.no_grad()
    def frozen_bucketed(self) -> None:
        order = sorted(range(len(self.prompts)), key=lambda n: len(self.prompts[n]))
        for batch in self._batches():
            self._score_padded(self.plain.model, [order[n] for n in batch])

    def peft_adapter(self) -> Callable[[], None]:
        """Score with one LoRA for all samples."""
        inner = self._lora(1).eval().base_model.model.model

        @torch.no_grad()
        def score() -> None:
            for batch in self._batches():
                self._score_padded(inner, batch)

        return score

    def peft_mixed(self) -> Callable[[], None]:
        """Score each sample with an adapter of its own, by peft's mixed batches."""
        model = self._lora(self.batch).eval()
        names = [str(n) for n in range(self.batch)]

        @torch.no_grad()
        def score() -> None:
            for batch in self._batches():
                with model.base_model._enable_peft_forward_hooks(adapter_names=names):
                    self._score_padded(model.base_model.model.model, batch)

        return score

    def _lora(self, adapters: int, dropout: float = 0.0) -> peft.PeftModel:
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES, lora_dropout=dropout)
        model = peft.get_peft_model(self._copy_sharing_weights(), config, adapter_name="0")
        for n in range(1, adapters):
            model.add_adapter(str(n), config)
        return model

    def merged_one_by_one(self) -> Callable[[], None]:
        """Write W + dW into a copy, one pair at a time."""
        model = copy.deepcopy(self.plain)
        targets = weight_targets(model, "qkvo")

        @torch.no_grad()
        def score() -> None:
            for n in range(len(self.prompts)):
                originals = [target.module.weight.clone() for target in targets]
                for target in targets:
                    target.module.weight += self.weights.delta(target, n).T.to(self.dtype)
                self._score_padded(model.model, [n])
                for target, weight in zip(targets, originals, strict=True):
                    target.module.weight.copy_(weight)

        return score

    def dense(self) -> Callable[[], None]:
        """Build each pair's dW as a matrix and multiply by it, in batches."""
        return self._hooked(lambda x, target, pairs: torch.bmm(x, pairs.A[target.d_in] @ pairs.B[target.name]))

    def two_products(self) -> Callable[[], None]:
        """Compute (x A) B on a padded batch, gathering A for each projection, as VLoRA does."""
        return self._hooked(lambda x, target, pairs: torch.bmm(x, pairs.A[target.d_in]) @ pairs.B[target.name])

    def _hooked(self, delta: Callable[[Tensor, WeightTarget, PairWeights], Tensor]) -> Callable[[], None]:
        model = self._copy_sharing_weights()
        targets = weight_targets(model, "qkvo")
        current: list[PairWeights] = []  # the weights of the batch in progress

        def add(target: WeightTarget) -> Callable[..., Tensor]:
            return lambda module, inputs, y: y + self.weights.scale * delta(inputs[0], target, current[0]).to(y.dtype)

        for target in targets:
            target.module.register_forward_hook(add(target))

        @torch.no_grad()
        def score() -> None:
            for batch in self._batches():
                weights = self.weights.select(list(batch))
                current[:] = [PairWeights({w: A.to(self.dtype) for w, A in weights.A.items()},
                                      {n: B.to(self.dtype) for n, B in weights.B.items()}, weights.scale)]  # fmt: skip
                self._score_padded(model.model, batch)

        return score

    # -- scoring with this package -------------------------------------------------------------------------------------

    @torch.no_grad()
    def frozen_packed(self) -> None:
        self.llm.score(self.prompts)

    @torch.no_grad()
    def apply_weights(self) -> None:
        self.llm.score(self.prompts, Conditioning(self.targets, self.weights))

    @torch.no_grad()
    def cora(self) -> None:
        self.llm.score(
            self.prompts, Conditioning(self.targets, self.generator.eval()(self.memory[: len(self.prompts)]))
        )

    def in_bfloat16(self, with_weights: bool) -> Callable[[], None]:
        """Score with the packed engine in bfloat16, frozen or as CoRA."""
        llm = self._frozen(copy.deepcopy(self.plain).bfloat16())
        targets = weight_targets(llm.model, "qkvo")

        @torch.no_grad()
        def score() -> None:
            weights = self.generator.eval()(self.memory[: len(self.prompts)]) if with_weights else None
            llm.score(self.prompts, Conditioning(targets, weights))

        return score

    # -- training: a step on one batch -------------------------------------------------------------------------------

    def train_peft(self) -> Callable[[], None]:
        """Train a static LoRA, with the loss at the last position of a padded batch."""
        model = self._lora(1, dropout=0.05).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        return lambda: self._step(
            lambda: self._score_padded(model.base_model.model.model, range(self.batch)), optimizer
        )

    def train_cora(
        self, on_question: bool = False, first_epoch: bool = False, recompute: bool = False
    ) -> Callable[[], None]:
        """Train CoRA.

        Args:
            on_question: the weights act on the question alone, so each history is read only once.
            first_epoch: no history has been read yet, as in the first epoch.
            recompute: recompute activations in the backward pass.
        """

        def scores() -> Tensor:
            self.llm.prefixes = PrefixCache(0) if first_epoch else self._histories
            self.llm.recompute = recompute
            questions = self.questions[: self.batch] if on_question else None
            weights = self.generator.train()(self.memory[: self.batch])
            return self.llm.score(self.prompts[: self.batch], Conditioning(self.targets, weights, questions))

        self._histories = PrefixCache(1 << 32)
        return lambda: self._step(scores, self.optimizer)

    def _step(self, scores: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        binary_cross_entropy_with_logits(scores(), self.labels[: self.batch]).backward()
        optimizer.step()
        self.llm.recompute = False

    # -- ranking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rank(self, on_question: bool) -> None:
        """Rank 100 candidates of one user; with `on_question` the user's history is read only once."""
        self.llm.prefixes = PrefixCache(0)
        questions = [LONGEST - QUESTION] * CANDIDATES if on_question else None
        weights = self.generator.eval()(self.memory[:CANDIDATES])
        self.llm.score(self.candidates, Conditioning(self.targets, weights, questions))
