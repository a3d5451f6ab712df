"""A frozen LLM that answers each prompt with Yes or No, under weights made for that prompt.

Legend: N prompts, T tokens of a packed row, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.llm import hub
from recbole_cora.llm.answers import QUESTION, answer_tokens
from recbole_cora.llm.conditioning import NOTHING, Conditioning
from recbole_cora.llm.families import decoder_blocks
from recbole_cora.llm.fingerprint import fingerprint
from recbole_cora.llm.grouping import consecutive, groups, prefix_key
from recbole_cora.llm.packed import Packing, pruned, recorded
from recbole_cora.llm.prefix import Prefix, PrefixCache
from recbole_cora.llm.reading import PADDED, Reading, alike, fastest_reading
from recbole_cora.llm.recompute import recomputed
from recbole_cora.llm.vectors import in_slots

ANSWER_SCORES = ("difference", "yes")


class FrozenLLM(nn.Module):
    """A causal LM whose weights never change. It scores the answer token at the end of a prompt.

    Attributes:
        model, tokenizer: Hugging Face's.
        blocks: the model's decoder blocks, in order; empty if the LLM family is unknown.
        name, revision: as passed to `load`.
        max_tokens: the context window.
        hidden_size: d.
        answer_ids: the token ids of Yes and No as they follow a prompt.
        reading: how prompts are read: the fastest way whose scores match padded reading.
        prefixes: the cache of shared prefixes; it has no room until `limit_bytes` is set.
        recompute: gradient checkpointing: recompute the activations of each block in the backward pass.
        batch_tokens: about how many tokens one forward pass reads.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        revision: str | None = None,
        answers: tuple[str, str] = ("Yes", "No"),
        answer_score: str = "difference",
        prompt_end: str = QUESTION,
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
        self.answer_ids = answer_tokens(tokenizer, answers, prompt_end)
        self.prefixes = PrefixCache(0)
        self.recompute = False
        # On a CPU, larger rows of a wide model fall out of the caches; smaller rows leave the matrix units idle.
        wide = self.hidden_size > 256
        self.batch_tokens = 1024 if self.device.type == "cpu" and wide else 4096
        self.blocks = decoder_blocks(model)
        self.train(False)
        self._check_head()
        self.reading = fastest_reading(model, name, bool(self.blocks), self._read_probes)

    @classmethod
    def load(
        cls,
        path: str,
        *,
        answers: tuple[str, str] = ("Yes", "No"),
        answer_score: str = "difference",
        prompt_end: str = QUESTION,
        revision: str | None = None,
        **options: Any,
    ) -> FrozenLLM:
        """Load a Hugging Face folder or hub id.

        Args:
            path: folder or hub id.
            revision: revision of a hub id (a commit, for reproducible results).
            answers: the two answers, the positive one first.
            answer_score: "difference" = logit of Yes minus logit of No; "yes" = logit of Yes alone.
            prompt_end: the text that every prompt ends with; the answers are the tokens that follow it.
            dtype: float32, bfloat16, float16, or auto: bfloat16 if the device multiplies it natively, else float32.
            quantised: "4bit" or "8bit" weights, by bitsandbytes.
            device: the LLM's device, unless `device_map` is given.
            device_map: as in transformers; "auto" spreads the LLM over the available devices.
            offload_folder: folder for weights that fit on no device.
            trust_remote_code: run the Python code that comes with the model.
            allow_pickle: read weights that are not safetensors (a pickle can run code).

        Raises:
            LLMError: the LLM is missing, incomplete, not a decoder with a language head, or its answers are not single
                tokens.
            SettingError: an unknown dtype, quantisation or answer score.
        """
        model, tokenizer = hub.load(path, revision=revision, **options)
        return cls(model, tokenizer, path, revision, answers, answer_score, prompt_end)

    def train(self, mode: bool = True) -> FrozenLLM:
        """Stay in evaluation mode, also when the module that holds the LLM is switched to training."""
        return super().train(False)

    def _apply(self, *args: Any, **options: Any) -> FrozenLLM:
        """Keep device and dtype: moving the LLM with the module that holds it would break a spread or quantised LLM."""
        return self

    @property
    def parameter_count(self) -> int:
        """Number of the LLM's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the token ids."""
        device = self.model.get_input_embeddings().weight.device
        return device if device.type != "meta" else torch.device("cpu")  # offloaded: accelerate moves the input

    @property
    def dtype(self) -> str:
        """Dtype of the embeddings, such as "bfloat16"."""
        return str(self.model.get_input_embeddings().weight.dtype).removeprefix("torch.")

    def embedding_statistics(self) -> tuple[Tensor, float]:
        """Return the mean [d] of up to 4096 token embeddings, and their root mean square around it.

        Embeddings are taken as the first block reads them (some models scale them).
        """
        table = self.model.get_input_embeddings()
        tokens = torch.arange(0, table.num_embeddings, max(1, table.num_embeddings // 4096), device=self.device)
        with torch.no_grad():
            embedded = table(tokens.unsqueeze(0))[0].float()
        mean = embedded.mean(dim=0)
        return mean, float((embedded - mean).square().mean().sqrt())

    def fingerprint(self) -> str:
        """Return a hash that identifies the model, whatever its dtype (see `fingerprint.fingerprint`)."""
        return fingerprint(self.model)

    def score(self, token_ids: Sequence[Sequence[int]], conditioning: Conditioning = NOTHING) -> Tensor:
        """Return the answer score of N prompts: [N], float32, in their order.

        Prompts are read in groups of about `batch_tokens` tokens. Gradients flow to the conditioning. Without
        conditioning, this is the base LLM, bit for bit.

        Args:
            token_ids: N prompts of 1 to `max_tokens` tokens.
            conditioning: the pairs' weights, vectors in slots, or a LoRA.

        Raises:
            LLMError: a prompt is empty or too long, or a question begins outside it.
        """
        if not len(token_ids):
            return torch.zeros(0, device=self.device)
        lengths = [len(ids) for ids in token_ids]
        if min(lengths) == 0 or max(lengths) > self.max_tokens:
            raise LLMError(f"the prompts have {min(lengths)} to {max(lengths)} tokens; expected 1 to {self.max_tokens}")
        conditioning.check(lengths)
        order, scores = [], []
        for group in groups(token_ids, conditioning.starts, self.reading, self.batch_tokens):
            last = self.read([token_ids[n] for n in group], conditioning.select(group))
            logits = self.answer_logits(last)
            scores.append(logits[:, 0] - logits[:, 1] if self.answer_score == "difference" else logits[:, 0])
            order += group
        self.prefixes.latest = {}
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(scores)[inverse.to(scores[0].device)]

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        conditioning: Conditioning = NOTHING,
        reading: Reading | None = None,
    ) -> Tensor:
        """Return the last token's state of each prompt [N, d], read in one forward pass.

        Args:
            reading: the way of reading; None means `self.reading`.
        """
        reading = reading or self.reading
        embedding, lengths = self.model.get_input_embeddings(), [len(ids) for ids in prompts]
        if not reading.packed:
            with ExitStack() as stack:
                self._apply_conditioning(stack, conditioning, None, conditioning.acting_padded(prompts), reading)
                if conditioning.slots is not None:
                    rows = range(0, len(prompts) * max(lengths), max(lengths))
                    stack.enter_context(in_slots(embedding, conditioning.slots, rows))
                return self._last_padded(prompts)
        prefixes: list[Prefix] = []
        acting = None
        starts = conditioning.starts
        if starts is not None and reading.shares_prefixes:
            prefixes = self._read_prefixes([ids[:start] for ids, start in zip(prompts, starts, strict=True)])
            prompts = [ids[start:] for ids, start in zip(prompts, starts, strict=True)]
        else:
            acting = conditioning.acting_packed(prompts)
        packing = Packing.of(prompts, self.device, prefixes=tuple(prefixes))
        with ExitStack() as stack:
            self._apply_conditioning(stack, conditioning, packing.lengths, acting, reading)
            if conditioning.slots is not None:
                stack.enter_context(in_slots(embedding, conditioning.slots, [0, *accumulate(lengths)][:-1]))
            if reading.pruned:
                stack.enter_context(pruned(self.blocks[-1], packing))
            hidden = self._forward(prompts, packing)
        return hidden if reading.pruned else hidden[packing.last.to(hidden.device)]

    def answer_logits(self, last: Tensor) -> Tensor:
        """Return the logits of the two answers [N, 2], float32, for last states [N, d]; no other logit is computed."""
        head = self.model.get_output_embeddings()
        with hub.at_hand(head):
            rows = torch.tensor(self.answer_ids, device=head.weight.device)
            logits = last.float().to(rows.device) @ head.weight[rows].float().T
            if head.bias is not None:
                logits = logits + head.bias[rows].float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def answer_probability(self, prompts: Sequence[Sequence[int]]) -> float:
        """Return the probability that the base LLM's next token is one of the two answers: the mean over N prompts.

        A small value means that the LLM would rather say something else, so its Yes and No say little.
        """
        last = self.read(prompts)
        head = self.model.get_output_embeddings()
        with hub.at_hand(head):
            logits = head(last.to(head.weight.device, head.weight.dtype)).float()  # [N, vocabulary]
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return float(logits.softmax(dim=-1)[:, list(self.answer_ids)].sum(dim=-1).mean())

    def _apply_conditioning(
        self,
        stack: ExitStack,
        conditioning: Conditioning,
        lengths: Sequence[int] | None,
        acting: Tensor | None,
        reading: Reading,
    ) -> None:
        """Attach weights and LoRA within `stack`; with `recompute`, attach them again in the backward pass."""
        stack.enter_context(conditioning.applied(lengths, acting))
        if not self.recompute or not torch.is_grad_enabled():
            return

        def recompute_context(layer: int) -> Callable[[], AbstractContextManager[None]]:
            return lambda: conditioning.applied(lengths, acting, layer)

        blocks = list(enumerate(self.blocks))[: -1 if reading.pruned else None]
        stack.enter_context(recomputed((block, recompute_context(layer)) for layer, block in blocks))

    def _last_padded(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return the last token's state of each prompt [N, d].

        The batch is padded at the right and has no mask: in a causal LM no token sees a later one.
        """
        lengths = torch.tensor([len(ids) for ids in prompts])
        padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        padded[torch.arange(padded.shape[1]) < lengths[:, None]] = _row(prompts)
        hidden = self.model.base_model(input_ids=padded.to(self.device), use_cache=False).last_hidden_state
        return hidden[torch.arange(len(prompts)), lengths - 1]

    def _forward(self, prompts: Sequence[Sequence[int]], packing: Packing) -> Tensor:
        """Return the states of a packed row: [T, d], or [N, d] if the last block is pruned."""
        row = _row(prompts).unsqueeze(0).to(self.device)
        return self.model.base_model(
            input_ids=row, position_ids=packing.positions(), use_cache=False, packing=packing
        ).last_hidden_state[0]

    @torch.no_grad()
    def _read_prefixes(self, prefixes: Sequence[Sequence[int]]) -> list[Prefix]:
        """Return the keys and values of each prefix, from the cache or read now; equal prefixes share one object."""
        keys = [prefix_key(ids) for ids in prefixes]
        states = {key: prefix for key in keys if (prefix := self.prefixes.get(key)) is not None}
        missing = {key: ids for key, ids in zip(keys, prefixes, strict=True) if key not in states}
        names, texts = list(missing), list(missing.values())
        for group in consecutive(range(len(texts)), lambda g: sum(len(texts[n]) for n in g) <= self.batch_tokens):
            batch = [texts[n] for n in group]
            packing = Packing.of(batch, self.device)
            blocks = recorded(self.blocks[-1], partial(self._forward, batch), packing)
            pieces = zip(*(block.split(packing.lengths, dim=2) for block in blocks), strict=True)
            for n, layers in zip(group, pieces, strict=True):
                states[names[n]] = tuple(layer.clone() for layer in layers)
                self.prefixes.offer(names[n], states[names[n]])
        self.prefixes.latest = states
        return [states[key] for key in keys]

    def _probe_ids(self) -> list[int]:
        ids: list[int] = self.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
        return ids

    def _read_probes(self, reading: Reading) -> Tensor:
        """Return the last states of three short prompts, to compare ways of reading."""
        ids = self._probe_ids()
        starts = [2, 1, 4] if reading.shares_prefixes else None
        return self.read([ids, ids[:3], ids[1:]], Conditioning(starts=starts), reading)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model whose own logits differ from `answer_logits`, or whose earlier tokens see later ones.

        A bidirectional model, or a head with an unknown scaling, is thus an error here rather than a wrong score.

        Raises:
            LLMError: the model is one of these, has no language head, or cannot be run.
        """
        if self.model.get_output_embeddings() is None:
            raise LLMError(f"'{self.name}' has no language head; expected a causal LM")
        ids = self._probe_ids()
        longer = torch.tensor([[*ids, ids[0], ids[0]]], device=self.device)
        try:
            theirs = self.model(input_ids=longer, use_cache=False).logits[0, len(ids) - 1, list(self.answer_ids)]
        except hub.FAILURES as error:
            raise LLMError(f"'{self.name}' cannot be run here: {hub.line_of(error)}") from None
        ours = self.answer_logits(self.read([ids], reading=PADDED))[0].to(theirs.device)
        if not alike(self.model, ours, theirs):
            raise LLMError(
                f"'{self.name}' ({self.model.config.model_type}) does not read left to right, or scales its logits in "
                "an unknown way; expected a causal LM with a plain language head"
            )


def _row(prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return all prompts' token ids in one row [T]."""
    return torch.from_numpy(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in prompts]))


def _context_window(config: Any, tokenizer: Any) -> int:
    """Return the smaller of the model's number of positions and the tokenizer's limit. Raises LLMError."""
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    finite = [int(limit) for limit in limits if limit and math.isfinite(limit) and limit < 10**9]
    if not finite:
        raise LLMError("neither the LLM's config nor its tokenizer gives a maximum input length")
    return min(finite)
