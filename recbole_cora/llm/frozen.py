"""A frozen LLM that answers Yes or No, with each prompt's own weights.

Legend: N prompts, L tokens, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.llm import hub
from recbole_cora.llm.answers import answer_tokens
from recbole_cora.llm.deltas import PairWeights, attached
from recbole_cora.llm.families import WeightTarget, decoder_blocks
from recbole_cora.llm.fingerprint import fingerprint
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.packed import Packing, pruned, recorded
from recbole_cora.llm.prefix import Prefix, PrefixCache
from recbole_cora.llm.recompute import recomputed
from recbole_cora.llm.vectors import SlotVectors, in_slots
from recbole_cora.llm.ways import check_head, take_faster_ways

ANSWER_SCORES = ("difference", "yes")


class FrozenLLM(nn.Module):
    """A causal LM whose weights never change, asked for the answer token at the end of a prompt.

    Attributes:
        model, tokenizer: Hugging Face's; blocks: the model's decoder blocks, in order.
        name, revision: as given to `load`.
        max_tokens: the context window.
        hidden_size: d.
        answer_ids: the token ids of Yes and No as they follow a prompt.
        packed: prompts are read in one row without padding (else in padded batches).
        pruned: then the last block is read at the last tokens only.
        shares_prefixes: then what comes before a question can be read once for many questions.
        prefixes: what is kept of these; nothing, until given room.
        recompute: gradient checkpointing: activations of each block are computed again in the backward pass.
        batch_tokens: tokens of one forward pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        revision: str | None = None,
        answers: tuple[str, str] = ("Yes", "No"),
        answer_score: str = "difference",
    ) -> None:
        super().__init__()
        if answer_score not in ANSWER_SCORES:
            raise SettingError(
                f"answer score '{answer_score}'{nearest(answer_score, ANSWER_SCORES)}: expected one of {ANSWER_SCORES}"
            )
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.answer_score = answer_score
        self.hidden_size = int(model.config.hidden_size)
        self.max_tokens = _context_window(model.config, tokenizer)
        self.answer_ids = answer_tokens(tokenizer, answers)
        self.prefixes = PrefixCache(0)
        self.recompute = False
        # Larger rows fall out of a CPU's caches; smaller ones leave its, or a GPU's, matrix units waiting.
        wide = self.hidden_size > 256
        self.batch_tokens = 1024 if self.device.type == "cpu" and wide else 4096
        self.blocks = decoder_blocks(model)
        self.packed = self.pruned = self.shares_prefixes = False
        self.train(False)
        check_head(self)
        take_faster_ways(self)

    @classmethod
    def load(
        cls,
        path: str,
        *,
        answers: tuple[str, str] = ("Yes", "No"),
        answer_score: str = "difference",
        revision: str | None = None,
        **options: Any,
    ) -> FrozenLLM:
        """Load a Hugging Face folder or hub id.

        Args:
            path: folder or hub id; revision: of a hub id (a commit, for results that reproduce).
            answers: what the LLM may answer, first the positive one.
            answer_score: "difference" = logit of Yes minus logit of No; "yes" = logit of Yes alone.
            dtype: float32, bfloat16, float16; auto: bfloat16 where the device's matrix units have it, else float32.
            quantised: "4bit" or "8bit" weights, by bitsandbytes.
            device: where the LLM goes, unless `device_map` ("auto": spread over the devices at hand) says so.
            offload_folder: where what no device holds then goes.
            trust_remote_code: run the Python code that comes with the model.
            allow_pickle: read weights that are not safetensors (a pickle can run code).

        Raises:
            LLMError: not there, not a decoder with a language head, incomplete, or its answers are not single tokens.
            SettingError: an unknown dtype, quantisation or answer score.
        """
        model, tokenizer = hub.load(path, revision=revision, **options)
        return cls(model, tokenizer, path, revision, answers, answer_score)

    def train(self, mode: bool = True) -> FrozenLLM:
        """Stays in evaluation mode, whatever the module it is part of does."""
        return super().train(False)

    def _apply(self, *args: Any, **options: Any) -> FrozenLLM:
        """Stays where it was loaded, in its dtype: to move it along would pull apart a spread or quantised LLM."""
        return self

    @property
    def parameter_count(self) -> int:
        """Parameters of the LLM."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device = self.model.get_input_embeddings().weight.device
        return device if device.type != "meta" else torch.device("cpu")  # offloaded: accelerate moves what comes in

    @property
    def dtype(self) -> str:
        """Of the embeddings, such as "bfloat16"."""
        return str(self.model.get_input_embeddings().weight.dtype).removeprefix("torch.")

    @property
    def way(self) -> str:
        """How prompts are read, for a log."""
        return ("packed, last block pruned" if self.pruned else "packed") if self.packed else "padded"

    def embedding_statistics(self) -> tuple[Tensor, float]:
        """Of 4096 tokens' embeddings, as the LLM's first block reads them: mean [d], and root mean square around it."""
        table = self.model.get_input_embeddings()
        tokens = torch.arange(0, table.num_embeddings, max(1, table.num_embeddings // 4096), device=self.device)
        with torch.no_grad():
            embedded = table(tokens.unsqueeze(0))[0].float()
        mean = embedded.mean(dim=0)
        return mean, float((embedded - mean).square().mean().sqrt())

    def fingerprint(self) -> str:
        """Of the model, in whatever dtype it is read: see `fingerprint.fingerprint`."""
        return fingerprint(self.model)

    def score(
        self,
        token_ids: Sequence[Sequence[int]],
        targets: Sequence[WeightTarget] = (),
        weights: PairWeights | None = None,
        questions: Sequence[int] | None = None,
        *,
        slots: SlotVectors | None = None,
        lora: SharedLoRA | None = None,
    ) -> Tensor:
        """The answer score of N prompts: [N], float32, in the given order.

        They are read in batches of at most `batch_tokens`. Gradients flow to whatever conditions the LLM here;
        without any of it this is the base LLM, bit for bit.

        Args:
            token_ids: N prompts of any length up to `max_tokens`.
            targets: the projections that receive a delta, where there are weights.
            weights: the collaborative weights of the N pairs.
            questions: where in each prompt the weights begin to act (at least 1); None: on all of it. What comes before
                is then the base LLM's, and read once for all prompts that begin alike.
            slots: vectors that stand in the prompts' slots.
            lora: one LoRA for all pairs.

        Raises:
            LLMError: a prompt that is empty or too long, or a question outside it.
        """
        if not len(token_ids):
            return torch.zeros(0, device=self.device)
        lengths = [len(ids) for ids in token_ids]
        if min(lengths) == 0 or max(lengths) > self.max_tokens:
            raise LLMError(f"prompts of {min(lengths)} to {max(lengths)} tokens; expected 1 to {self.max_tokens}")
        starts = None if weights is None else questions
        if starts is not None and not all(1 <= start < length for start, length in zip(starts, lengths, strict=True)):
            raise LLMError("a question begins outside its prompt; expected it after the first token")
        order, scores = [], []
        for group in self._groups(token_ids, starts):
            prompts = [token_ids[n] for n in group]
            chosen = None if weights is None else weights.select(group)
            begin = None if starts is None else [starts[n] for n in group]
            filled = None if slots is None else slots.select(group)
            last = self.read(prompts, targets, chosen, begin, filled, lora)
            logits = self.answer_logits(last)
            scores.append(logits[:, 0] - logits[:, 1] if self.answer_score == "difference" else logits[:, 0])
            order += group
        self.prefixes.latest = {}
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(scores)[inverse.to(scores[0].device)]

    def _groups(self, token_ids: Sequence[Sequence[int]], starts: Sequence[int] | None) -> Iterator[list[int]]:
        """Prompts that are read together: of like length where they are padded, of one prefix where they share it."""
        lengths, most = [len(ids) for ids in token_ids], self.batch_tokens
        everyone = range(len(lengths))
        if not self.packed:
            by_length = sorted(everyone, key=lengths.__getitem__)
            return _grouped(by_length, lambda group: len(group) * lengths[group[-1]] <= most)
        if starts is None or not self.shares_prefixes:
            return _grouped(everyone, lambda group: sum(lengths[n] for n in group) <= most)
        prefixes = [_key(ids[:start]) for ids, start in zip(token_ids, starts, strict=True)]

        def fits(group: list[int]) -> bool:
            before = {prefixes[n]: starts[n] for n in group}
            return sum(lengths[n] - starts[n] for n in group) <= most and sum(before.values()) <= 4 * most

        return _grouped(sorted(everyone, key=prefixes.__getitem__), fits)

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[WeightTarget] = (),
        weights: PairWeights | None = None,
        starts: Sequence[int] | None = None,
        slots: SlotVectors | None = None,
        lora: SharedLoRA | None = None,
    ) -> Tensor:
        """The last token's state of each prompt [N, d]; the weights act from `starts` on."""
        embedding, lengths = self.model.get_input_embeddings(), [len(ids) for ids in prompts]
        if not self.packed:
            with ExitStack() as stack:
                self._equip(stack, targets, weights, None, None if starts is None else _after(starts, prompts), lora)
                if slots is not None:
                    stack.enter_context(in_slots(embedding, slots, range(0, len(prompts) * max(lengths), max(lengths))))
                return self._last_padded(prompts)
        prefixes: list[Prefix] = []
        acting = None
        if starts is not None and self.shares_prefixes:
            prefixes = self._read_prefixes([ids[:start] for ids, start in zip(prompts, starts, strict=True)])
            prompts = [ids[start:] for ids, start in zip(prompts, starts, strict=True)]
        elif starts is not None:
            acting = torch.cat([torch.arange(len(ids)) >= start for ids, start in zip(prompts, starts, strict=True)])
            acting = acting[None, :, None]
        packing = Packing.of(prompts, self.device, prefixes=tuple(prefixes))
        with ExitStack() as stack:
            self._equip(stack, targets, weights, packing.lengths, acting, lora)
            if slots is not None:
                stack.enter_context(in_slots(embedding, slots, [0, *accumulate(lengths)][:-1]))
            if self.pruned:
                stack.enter_context(pruned(self.blocks[-1], packing))
            hidden = self._forward(prompts, packing)
        return hidden if self.pruned else hidden[packing.last.to(hidden.device)]

    def _equip(
        self,
        stack: ExitStack,
        targets: Sequence[WeightTarget],
        weights: PairWeights | None,
        lengths: Sequence[int] | None,
        acting: Tensor | None,
        lora: SharedLoRA | None,
    ) -> None:
        """Attach weights and LoRA within `stack`; with `recompute`, to be attached again in the backward pass."""

        @contextmanager
        def equipped(own: Sequence[WeightTarget]) -> Iterator[None]:
            with ExitStack() as both:
                if lora is not None:
                    both.enter_context(lora.attached())
                if weights is not None:
                    both.enter_context(attached(own, weights, lengths, acting))
                yield

        stack.enter_context(equipped(targets))
        if not self.recompute or not torch.is_grad_enabled():
            return

        def again(layer: int) -> Callable[[], Any]:
            return lambda: equipped([target for target in targets if target.layer == layer])

        blocks = list(enumerate(self.blocks))[: -1 if self.pruned else None]
        stack.enter_context(recomputed((block, again(layer)) for layer, block in blocks))

    def _last_padded(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The last token's state of each prompt [N, d].

        Padded at the right without a mask: in a causal LM no real token sees a later one.
        """
        lengths = torch.tensor([len(ids) for ids in prompts])
        padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        padded[torch.arange(padded.shape[1]) < lengths[:, None]] = _row(prompts)
        hidden = self.model.base_model(input_ids=padded.to(self.device), use_cache=False).last_hidden_state
        return hidden[torch.arange(len(prompts)), lengths - 1]

    def _forward(self, prompts: Sequence[Sequence[int]], packing: Packing) -> Tensor:
        """States of a packed row: [T, d], or [N, d] where the last block is pruned."""
        row = _row(prompts).unsqueeze(0).to(self.device)
        return self.model.base_model(
            input_ids=row, position_ids=packing.positions(), use_cache=False, packing=packing
        ).last_hidden_state[0]

    @torch.no_grad()
    def _read_prefixes(self, prefixes: Sequence[Sequence[int]]) -> list[Prefix]:
        """Keys and values of each, from the cache or read now; one object for all that are the same."""
        keys = [_key(ids) for ids in prefixes]
        found = {key: self.prefixes.get(key) for key in keys}
        missing = {key: ids for key, ids in zip(keys, prefixes, strict=True) if found[key] is None}
        names, texts = list(missing), list(missing.values())
        for group in _grouped(range(len(texts)), lambda g: sum(len(texts[n]) for n in g) <= self.batch_tokens):
            some = [texts[n] for n in group]
            packing = Packing.of(some, self.device)
            blocks = recorded(self.blocks[-1], partial(self._forward, some), packing)
            pieces = zip(*(block.split(packing.lengths, dim=2) for block in blocks), strict=True)
            for n, layers in zip(group, pieces, strict=True):
                found[names[n]] = states = tuple(layer.clone() for layer in layers)
                self.prefixes.offer(names[n], states)
        self.prefixes.latest = found  # type: ignore[assignment]
        return [found[key] for key in keys]  # type: ignore[misc]

    def answer_logits(self, last: Tensor) -> Tensor:
        """Logits of the two answers [N, 2], float32, of last states [N, d]; no other row of the head is computed."""
        head = self.model.get_output_embeddings()
        with hub.at_hand(head):
            rows = torch.tensor(self.answer_ids, device=head.weight.device)
            logits = last.float().to(rows.device) @ head.weight[rows].float().T
            if head.bias is not None:
                logits = logits + head.bias[rows].float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)


def _grouped(order: Sequence[int], fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """`order` cut into runs that fit, of at least one each."""
    group: list[int] = []
    for n in order:
        if group and not fits([*group, n]):
            yield group
            group = []
        group.append(n)
    if group:
        yield group


def _row(prompts: Sequence[Sequence[int]]) -> Tensor:
    """All prompts' token ids, one after the other [T]."""
    return torch.from_numpy(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in prompts]))


def _after(starts: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
    """True from each row's start on [N, L, 1], in a padded batch."""
    return (torch.arange(max(map(len, prompts))) >= torch.tensor(starts)[:, None]).unsqueeze(2)


def _key(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype=np.int32).tobytes()


def _context_window(config: Any, tokenizer: Any) -> int:
    """The model's positions, or what the tokenizer says where the model has no limit."""
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [int(limit) for limit in limits if limit and math.isfinite(limit) and limit < 10**9]
    if not known:
        raise LLMError("neither the LLM's config nor its tokenizer names a longest input")
    return min(known)
