"""Hugging Face models and tokenizers, from a folder or the hub: the one file that imports `transformers`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import align_module_device
from safetensors import SafetensorError
from tokenizers.processors import TemplateProcessing
from torch import nn

from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.llm.packed import NAME, packed_attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTISED = ("4bit", "8bit")
_MISTRAL = "tekken.json"  # Mistral's recent tokenizers have this file only
#: Exceptions that reading a foreign folder or running a foreign model may raise.
FAILURES = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ImportError, RuntimeError, AssertionError,
    SafetensorError,
)  # fmt: skip


def load(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantised: str | None = None,
    device: str | torch.device = "cpu",
    device_map: Any = None,
    offload_folder: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[Any, Any]:
    """Load a decoder-only causal LM and its tokenizer; `FrozenLLM.load` documents the arguments.

    Raises:
        LLMError: the LLM is missing, incomplete or not a decoder, or bitsandbytes is not installed.
        SettingError: an unknown dtype or kind of quantisation.
    """
    kind = dtype_named(dtype, device, device_map)
    folder = Path(path).expanduser()
    source = str(folder) if folder.is_dir() else path
    if not folder.is_dir() and path.startswith((".", "/", "~")):
        raise LLMError(f"no LLM folder '{path}'; expected a Hugging Face folder or a hub id such as Qwen/Qwen2-0.5B")
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if folder.suffix.lower() == ".gguf":
        model, tokenizer = read_gguf(folder, kind)
        return model.to(device), tokenizer
    try:
        config = transformers.AutoConfig.from_pretrained(source, **common)
    except FAILURES as error:
        raise LLMError(
            f"cannot find or read the LLM '{path}': {line_of(error)}; expected a Hugging Face folder or hub id "
            f"(offline: download it first, and give its folder)"
        ) from None
    if getattr(config, "is_encoder_decoder", False):
        raise LLMError(f"'{path}' ({config.model_type}) is an encoder-decoder; expected a decoder-only causal LM")
    if quantised is not None:
        common["quantization_config"] = _quantisation(quantised, kind)
        device_map = device_map or {"": torch.device(device).index or 0 if torch.cuda.is_available() else device}
    if offload_folder is not None:
        common["offload_folder"] = offload_folder
    tokenizer = _tokenizer(source, folder.is_dir(), revision=revision, trust_remote_code=trust_remote_code)
    try:
        result: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            dtype=kind,
            device_map=device_map,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **common,
        )
    except FAILURES as error:
        remedy = "" if allow_pickle else "; weights that are not safetensors load only with allow_pickle"
        raise LLMError(f"cannot load the LLM '{path}': {line_of(error)}{remedy}") from None
    model, info = result
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise LLMError(f"'{path}' lacks {len(missing)} weights, such as {missing[0]}; expected a complete causal LM")
    return (model if device_map is not None else model.to(device)), tokenizer


def _tokenizer(source: str, is_folder: bool, **options: Any) -> Any:
    """Load the tokenizer of an LLM.

    If its settings or its vocabulary are missing, `transformers` builds a tokenizer from the model type alone, with
    other special tokens or an empty vocabulary. Such a folder is refused.

    Raises:
        LLMError: the tokenizer cannot be read, or a file is missing.
    """
    files = {path.name for path in Path(source).iterdir()} if is_folder else set()
    remedy = "copy it from the LLM's source, or write it with tokenizer.save_pretrained"
    if is_folder and not files & {"tokenizer_config.json", _MISTRAL}:
        raise LLMError(f"the LLM folder '{source}' has no tokenizer_config.json; {remedy}")
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise LLMError(
            f"cannot read the tokenizer of the LLM '{source}': {line_of(error)}; expected files "
            "written by tokenizer.save_pretrained"
        ) from None
    names = sorted(getattr(tokenizer, "vocab_files_names", {}).values())
    if is_folder and names and not files & {*names, _MISTRAL}:
        raise LLMError(f"the LLM folder '{source}' has no vocabulary: none of {', '.join(names)}; {remedy}")
    return tokenizer


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Read a GGUF file of any quantisation as a model with ordinary weights, which `save` takes, and a tokenizer.

    Raises:
        LLMError: gguf is not installed; the file is damaged, of a family that `transformers` cannot read, without a
            tokenizer, or lacks weights.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise LLMError("a GGUF file needs the package gguf; install it: pip install 'recbole-cora[gguf]'") from None
    if not path.is_file():
        raise LLMError(f"no file '{path}'; expected a GGUF file")
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        metadata = GGUFReader(path).fields
        if "tokenizer.ggml.tokens" not in metadata:
            raise LLMError(f"the GGUF file '{path}' has no tokenizer; expected one with tokenizer.ggml.tokens")
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(**source)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, output_loading_info=True)
    except LLMError:
        raise
    except BaseException as error:  # gguf, tokenizers and numpy each raise their own on a damaged file
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # tokenizers' in Rust
            raise
        raise LLMError(
            f"cannot read the GGUF file '{path}': {line_of(error)}; expected a whole file of a family that "
            f"transformers {transformers.__version__} can read"
        ) from None
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise LLMError(f"'{path}' lacks {len(missing)} weights, such as {missing[0]}; expected a complete causal LM")
    begins = metadata.get("tokenizer.ggml.add_bos_token")
    if begins is not None:
        _set_bos(tokenizer, bool(begins.contents()))
    # The weights are ordinary now; with these marks, save_pretrained would refuse to write them.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer


def _set_bos(tokenizer: Any, wanted: bool) -> None:
    """Let the tokenizer put its begin-of-text token before a text, or not: as the GGUF file says, not its class."""
    bos = tokenizer.bos_token
    if bos is None or (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) == wanted:
        return
    special = [(bos, tokenizer.bos_token_id)]
    single, pair = (f"{bos} $A", f"{bos} $A $B") if wanted else ("$A", "$A $B")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as an ordinary Hugging Face folder. Raises OSError if they cannot be written."""
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) in (SafetensorError, Exception):  # raised by safetensors and tokenizers when the disk is full
            raise OSError(line_of(error)) from None
        raise


def dtype_named(name: str, device: str | torch.device, device_map: Any = None) -> torch.dtype:
    """Return the dtype of that name; auto means bfloat16 if the device multiplies it natively, else float32.

    Args:
        device: the LLM's device, unless a `device_map` spreads it over the GPUs.

    Raises:
        SettingError: there is no dtype of that name.
    """
    spread = device_map is not None and torch.cuda.is_available()
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SettingError(f"dtype '{name}'{nearest(name, DTYPES)}: expected auto, {', '.join(DTYPES)}")
    return torch.bfloat16 if has_bfloat16_units(torch.device("cuda" if spread else device)) else torch.float32


def has_bfloat16_units(device: torch.device) -> bool:
    """Return True if the device multiplies bfloat16 matrices natively; elsewhere bfloat16 is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _quantisation(kind: str, dtype: torch.dtype) -> Any:
    if kind not in QUANTISED:
        raise SettingError(f"quantised '{kind}'{nearest(kind, QUANTISED)}: expected one of {', '.join(QUANTISED)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise LLMError(
            "a quantised LLM needs bitsandbytes; install it: pip install 'recbole-cora[quantised]'"
        ) from None
    if kind == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def at_hand(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context within which the module's weights are loaded, also if accelerate has offloaded them."""
    context: AbstractContextManager[None] = align_module_device(module)
    return context


def line_of(error: BaseException) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: " + (str(error).strip().splitlines() or ["(no message)"])[0][:200].rstrip(".")


def show_loading_bars(visible: bool) -> None:
    """Switch the progress bars of `transformers` for reading and writing weights on or off, in this process."""
    bars = transformers.utils.logging
    (bars.enable_progress_bar if visible else bars.disable_progress_bar)()


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
    """Return a small Llama with random weights; `special` holds bos_token_id, eos_token_id and pad_token_id."""
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
    """Wrap a `tokenizers.Tokenizer`, which has <s>, </s> and <pad>, as a Hugging Face tokenizer."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
    )


def _causal_mask(*args: Any, **options: Any) -> Any:
    """Return no mask if nothing is masked: `packed_attention` is causal, and a packed row's mask would be T x T."""
    return None if options.get("attention_mask") is None else transformers.masking_utils.sdpa_mask(*args, **options)


transformers.AttentionInterface.register(NAME, packed_attention)
transformers.AttentionMaskInterface.register(NAME, _causal_mask)
