"""A frozen LLM that answers Yes or No: the one file that imports `transformers`.

Legend: N prompts, L tokens, d hidden size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.llm.deltas import PairWeights, attached
from recbole_cora.llm.families import WeightTarget, last_block
from recbole_cora.llm.packed import NAME, Packing, packed_attention, pruned

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ANSWER_SCORES = ("difference", "yes")
_QUESTION = 'Answer with "Yes" or "No". \n#Answer:'
log = logging.getLogger()
_WHOLE = 1 << 20  # tensors of more elements are fingerprinted by a sample
_SAMPLE = 1 << 16
_LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


class FrozenLLM(nn.Module):
    """A causal LM whose weights never change, asked for the answer token at the end of a prompt.

    Attributes:
        model, tokenizer: Hugging Face's.
        name, revision: as given to `load`.
        max_tokens: the context window.
        hidden_size: d.
        answer_ids: the token ids of Yes and No as they follow a prompt.
        packed: prompts are read in one row without padding (else in padded batches).
        pruned: then the last block is read at the last tokens only.
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
        self.packed = self.pruned = False
        self.train(False)
        self._check_head()
        self._try_packed()

    @classmethod
    def load(
        cls,
        path: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | torch.device = "cpu",
        device_map: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        answers: tuple[str, str] = ("Yes", "No"),
        answer_score: str = "difference",
    ) -> FrozenLLM:
        """Load a Hugging Face folder or hub id.

        Args:
            path: folder or hub id; revision: of a hub id (a commit, for results that reproduce).
            dtype: auto (float32 on a CPU, bfloat16 on CUDA), float32, bfloat16 or float16.
            device: where the LLM goes, unless `device_map` ("auto": spread over the devices at hand) says so.
            trust_remote_code: run the Python code that comes with the model.
            allow_pickle: read weights that are not safetensors (a pickle can run code).
            answers: what the LLM may answer, first the positive one.
            answer_score: "difference" = logit of Yes minus logit of No; "yes" = logit of Yes alone.

        Raises:
            LLMError: not there, not a decoder with a language head, incomplete, or its answers are not single tokens.
            SettingError: an unknown dtype or answer score.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise SettingError(f"dtype '{dtype}'{nearest(dtype, DTYPES)}: expected auto, {', '.join(DTYPES)}")
        on_cuda = torch.device(device).type == "cuda" or (device_map is not None and torch.cuda.is_available())
        kind = DTYPES[dtype] if dtype != "auto" else torch.bfloat16 if on_cuda else torch.float32
        folder = Path(path).expanduser()
        source = str(folder) if folder.is_dir() else path
        if not folder.is_dir() and path.startswith((".", "/", "~")):
            raise LLMError(
                f"no LLM folder '{path}'; expected a Hugging Face folder or a hub id such as Qwen/Qwen2-0.5B"
            )
        common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            config = transformers.AutoConfig.from_pretrained(source, **common)
        except _LOADING as error:
            raise LLMError(
                f"cannot find or read the LLM '{path}': {_line(error)}; expected a Hugging Face folder or hub id "
                f"(offline, download it beforehand and give its folder)"
            ) from None
        if getattr(config, "is_encoder_decoder", False):
            raise LLMError(f"'{path}' ({config.model_type}) is an encoder-decoder; expected a decoder-only causal LM")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                dtype=kind,
                device_map=device_map,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                **common,
            )
        except _LOADING as error:
            remedy = "" if allow_pickle else "; weights that are not safetensors load only with allow_pickle"
            raise LLMError(f"cannot load the LLM '{path}': {_line(error)}{remedy}") from None
        model, info = loaded
        if info["missing_keys"]:
            lacking = sorted(info["missing_keys"])
            raise LLMError(
                f"'{path}' lacks {len(lacking)} weights, such as {lacking[0]}; expected a complete causal LM"
            )
        if device_map is None:
            model = model.to(device)
        return cls(model, tokenizer, path, revision, answers, answer_score)

    def train(self, mode: bool = True) -> FrozenLLM:
        """Stays in evaluation mode, whatever the module it is part of does."""
        return super().train(False)

    @property
    def parameter_count(self) -> int:
        """Parameters of the LLM."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.model.get_input_embeddings().weight.device

    def fingerprint(self) -> str:
        """SHA-256 of the config and of every parameter's name, shape, dtype and bytes.

        Of a tensor with more than 2^20 elements 2^16 evenly spaced ones are hashed: another model is always told
        apart, a change of single elements in a large model may not be.
        """
        config = {
            key: value
            for key, value in self.model.config.to_dict().items()
            if key not in ("_name_or_path", "transformers_version")  # the same model moved or read by a newer release
        }
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, parameter in sorted(self.model.named_parameters()):
            flat = parameter.detach().reshape(-1)
            if flat.numel() > _WHOLE:
                flat = flat[:: -(-flat.numel() // _SAMPLE)]
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(flat.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    def score(
        self,
        token_ids: Sequence[Sequence[int]],
        targets: Sequence[WeightTarget] | None = None,
        weights: PairWeights | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """The answer score of N prompts: [N], float32, in the given order.

        The prompts are read in batches of similar length. Gradients flow to `weights`, if any; without them this
        is the base LLM, bit for bit.

        Args:
            token_ids: N prompts of any length up to `max_tokens`.
            targets: the projections that receive a delta, where there are weights.
            weights: the collaborative weights of the N pairs.
            batch_size: prompts per forward pass.
        """
        if not len(token_ids):
            return torch.zeros(0, device=self.device)
        order = sorted(range(len(token_ids)), key=lambda n: len(token_ids[n]))
        scores = []
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            prompts = [token_ids[n] for n in chunk]
            lengths = [len(ids) for ids in prompts] if self.packed else None
            deltas = nullcontext() if weights is None else attached(targets or (), weights.select(chunk), lengths)
            with deltas:
                logits = self._answer_logits(prompts)
            scores.append(logits[:, 0] - logits[:, 1] if self.answer_score == "difference" else logits[:, 0])
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(scores)[inverse.to(scores[0].device)]

    def _answer_logits(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Logits of the two answers after each prompt: [N, 2], float32; only these rows of the head are computed."""
        lengths = [len(ids) for ids in token_ids]
        if min(lengths) == 0 or max(lengths) > self.max_tokens:
            raise LLMError(f"prompts of {min(lengths)} to {max(lengths)} tokens; expected 1 to {self.max_tokens}")
        hidden = (self._last_packed if self.packed else self._last_padded)(token_ids).float()  # [N, d]
        head = self.model.get_output_embeddings()
        rows = torch.tensor(self.answer_ids, device=head.weight.device)
        logits = hidden.to(rows.device) @ head.weight[rows].float().T
        if head.bias is not None:
            logits = logits + head.bias[rows].float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _last_padded(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """The last token's state of each prompt [N, d].

        Padded at the right without a mask: in a causal LM no real token sees a later one.
        """
        lengths = [len(ids) for ids in token_ids]
        padded = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        for n, ids in enumerate(token_ids):
            padded[n, : lengths[n]] = torch.as_tensor(ids)
        hidden = self.model.base_model(input_ids=padded.to(self.device), use_cache=False).last_hidden_state
        last = torch.tensor(lengths, device=hidden.device) - 1
        return hidden[torch.arange(len(lengths), device=hidden.device), last]

    def _last_packed(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """The same, from one row of all prompts' tokens."""
        packing = Packing.of(token_ids, self.device)
        row = torch.cat([torch.as_tensor(ids, dtype=torch.long) for ids in token_ids]).unsqueeze(0)
        block = last_block(self.model) if self.pruned else None
        with nullcontext() if block is None else pruned(block, packing):
            hidden = self.model.base_model(
                input_ids=row.to(self.device), position_ids=packing.positions(), use_cache=False, packing=packing
            ).last_hidden_state[0]
        return hidden[packing.last.to(hidden.device)] if block is None else hidden

    @torch.no_grad()
    def _try_packed(self) -> None:
        """Read packed and pruned from now on, or packed only, if the model answers alike; the log says where not."""
        ids = self.tokenizer(_QUESTION, add_special_tokens=False)["input_ids"]
        prompts = [ids, ids[:3], ids[1:]]
        before, padded = self.model.config._attn_implementation, self._answer_logits(prompts)
        self.packed, why = True, ""
        for self.pruned in (True, False):
            try:
                self.model.set_attn_implementation(NAME)
                if _alike(self._answer_logits(prompts), padded, self.model):
                    return
                why = "it answers otherwise then"
            except _LOADING as error:
                why = _line(error)
            log.debug(f"{self.name}: not packed{' and pruned' if self.pruned else ''} ({why})")
        self.packed = False
        self.model.set_attn_implementation(before)
        log.info(f"{self.name}: prompts are read in padded batches, not packed ({why})")

    @torch.no_grad()
    def _check_head(self) -> None:
        """The two rows must be what the model itself answers, and a later token must not change an earlier one.

        So a bidirectional model, or a head with a scaling that `_answer_logits` does not know, is refused here
        instead of giving wrong scores in silence.
        """
        if self.model.get_output_embeddings() is None:
            raise LLMError(f"'{self.name}' has no language head; expected a causal LM")
        ids = self.tokenizer(_QUESTION, add_special_tokens=False)["input_ids"]
        longer = torch.tensor([[*ids, ids[0], ids[0]]], device=self.device)
        theirs = self.model(input_ids=longer, use_cache=False).logits[0, len(ids) - 1, list(self.answer_ids)].float()
        ours = self._answer_logits([ids])[0].to(theirs.device)
        if not _alike(ours, theirs, self.model):
            raise LLMError(
                f"'{self.name}' ({self.model.config.model_type}) does not read left to right, or scales its logits "
                f"in a way unknown here; expected a causal LM with a plain language head"
            )


def _causal_mask(*args: Any, **options: Any) -> Any:
    """No mask where nothing is masked: `packed_attention` is causal by itself, and a packed row's would be T x T."""
    return None if options.get("attention_mask") is None else transformers.masking_utils.sdpa_mask(*args, **options)


transformers.AttentionInterface.register(NAME, packed_attention)
transformers.AttentionMaskInterface.register(NAME, _causal_mask)


def _alike(ours: Tensor, theirs: Tensor, model: Any) -> bool:
    """Equal up to the rounding of the model's dtype."""
    exact = next(model.parameters()).dtype == torch.float32
    return torch.allclose(ours, theirs, atol=1e-3 if exact else 0.15, rtol=1e-3 if exact else 0.05)


def answer_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[int, int]:
    """The ids of the two answers as they follow `#Answer:`, with the space before them if that is one token each.

    Raises:
        LLMError: an answer is more than one token, or both are the same.
    """
    question = tokenizer(_QUESTION, add_special_tokens=False)["input_ids"]
    seen = []
    for space in (" ", ""):
        tails = []
        for answer in answers:
            ids = tokenizer(_QUESTION + space + answer, add_special_tokens=False)["input_ids"]
            tails.append(ids[len(question) :] if ids[: len(question)] == question else [])
        if all(len(tail) == 1 for tail in tails) and tails[0] != tails[1]:
            return tails[0][0], tails[1][0]
        seen += [tokenizer.convert_ids_to_tokens(tail) for tail in tails]
    raise LLMError(
        f"the answers {answers[0]!r} and {answers[1]!r} are not two single tokens of this LLM after '#Answer:': "
        f"{seen}; choose other answers"
    )


def show_loading_bars(shown: bool) -> None:
    """Whether `transformers` shows a bar while it reads or writes weights, in this process."""
    bars = transformers.utils.logging
    (bars.enable_progress_bar if shown else bars.disable_progress_bar)()


def make_llama(
    *,
    vocab_size: int,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    max_tokens: int,
    special: dict[str, int],
) -> Any:
    """A small Llama with random weights; `special` holds bos_token_id, eos_token_id and pad_token_id."""
    make_config: Any = transformers.LlamaConfig
    config = make_config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        **special,
    )
    return transformers.LlamaForCausalLM(config)


def wrap_tokenizer(tokenizer: Any, max_tokens: int) -> Any:
    """A `tokenizers.Tokenizer` with <s>, </s> and <pad> as a Hugging Face tokenizer, to be saved with a model."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
    )


def _context_window(config: Any, tokenizer: Any) -> int:
    """The model's positions, or what the tokenizer says where the model has no limit."""
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [int(limit) for limit in limits if limit and math.isfinite(limit) and limit < 10**9]
    if not known:
        raise LLMError("neither the LLM's config nor its tokenizer names a longest input")
    return min(known)


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    return f"{type(error).__name__}: " + (str(error).strip().splitlines() or ["(no message)"])[0][:200].rstrip(".")
