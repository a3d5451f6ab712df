"""Log-probabilities of given tokens under a frozen LLM."""

from __future__ import annotations

import pytest
import torch

from recbole_cora.errors import LLMError
from recbole_cora.llm import likelihood
from recbole_cora.llm.conditioning import NOTHING, Conditioning
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.likelihood import log_probs, text_tokens
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.reading import PADDED
from tests.llms import prompts, random_weights

#: Three groups of texts: two that share a beginning, one alone, and two that share another beginning.
BEGINNINGS = [[5, 6, 7, 8], [5, 6, 7, 8], [11, 12], [30, 31, 32], [30, 31, 32]]
ENDINGS = [[9], [10, 20, 30], [13, 14, 15, 16, 17], [33, 34], [35]]
TEXTS = [beginning + ending for beginning, ending in zip(BEGINNINGS, ENDINGS, strict=True)]
STARTS = [len(beginning) for beginning in BEGINNINGS]


def plain(llm: FrozenLLM, text: list[int], start: int) -> torch.Tensor:
    """The same by one forward pass of transformers."""
    with torch.no_grad():
        logits = llm.model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float()
    tokens = torch.arange(start, len(text))
    return logits.log_softmax(dim=-1)[tokens - 1, torch.tensor(text)[tokens]]


def lora_of(llm: FrozenLLM, size: float) -> SharedLoRA:
    """Return a LoRA on all of q, k, v and o, with random weights of this size."""
    torch.manual_seed(0)
    lora = SharedLoRA(llm.model, weight_targets(llm.model, "qkvo"), rank=4, alpha=8, dropout=0.0)
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=size)
    lora.freeze()
    return lora


def test_a_likelihood_is_that_of_a_plain_forward_pass(llm: FrozenLLM) -> None:
    """In every family, with shared beginnings or without, and in groups of any size."""
    expected = [plain(llm, text, start) for text, start in zip(TEXTS, STARTS, strict=True)]
    for llm.batch_tokens in (4096, 9, 1):
        for value, wanted in zip(log_probs(llm, TEXTS, STARTS), expected, strict=True):
            torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-4)


def test_padded_reading_gives_the_same(llama: FrozenLLM) -> None:
    """A model that cannot be packed gets the same likelihoods."""
    packed = log_probs(llama, TEXTS, STARTS)
    llama.reading = PADDED
    for one, other in zip(packed, log_probs(llama, TEXTS, STARTS), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "weights"])
def test_a_conditioning_acts_on_every_token_and_leaves_no_trace(llama: FrozenLLM, kind: str) -> None:
    """With it, each text has the likelihood that it has under it alone. Afterwards the LLM is the base, bit for bit."""
    before = log_probs(llama, TEXTS, STARTS)
    if kind == "lora":
        conditioning, applied = Conditioning(lora=lora_of(llama, 0.3)), Conditioning(lora=lora_of(llama, 0.3))
    else:
        targets = weight_targets(llama.model, "qkv")
        conditioning = Conditioning(targets, random_weights(targets).select([3]))
        applied = conditioning
    values = log_probs(llama, TEXTS, STARTS, conditioning)
    for text, start, value, base in zip(TEXTS, STARTS, values, before, strict=True):
        with applied.applied(None, None):
            torch.testing.assert_close(value, plain(llama, text, start), atol=2e-5, rtol=1e-4)
        assert not torch.allclose(value, base, atol=1e-3)
    for one, other in zip(before, log_probs(llama, TEXTS, STARTS, NOTHING), strict=True):
        assert torch.equal(one, other)


def test_pieces_of_logits_change_nothing(llama: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by computing few logits at a time."""
    whole = torch.cat(log_probs(llama, TEXTS, STARTS))
    monkeypatch.setattr(likelihood, "_MOST_LOGITS", 1)
    torch.testing.assert_close(torch.cat(log_probs(llama, TEXTS, STARTS)), whole)


def test_probabilities_of_all_next_tokens_sum_to_one(llama: FrozenLLM) -> None:
    """The log-probabilities are those of one distribution."""
    beginning, size = prompts(llama)[0][:6], llama.model.config.vocab_size
    values = torch.cat(log_probs(llama, [[*beginning, token] for token in range(size)], [len(beginning)] * size))
    torch.testing.assert_close(values.exp().sum(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_wrong_texts_are_refused(llama: FrozenLLM) -> None:
    """The first token has no likelihood, and no text may be longer than the context."""
    for text, start in (([5, 6], 0), ([5, 6], 2), ([5] * 257, 1)):
        with pytest.raises(LLMError, match="is scored from token"):
            log_probs(llama, [text], [start])
    with pytest.raises(LLMError, match="no starts"):
        log_probs(llama, [[5, 6]], [1], Conditioning(starts=[1]))


def test_no_texts_have_no_likelihoods(llama: FrozenLLM) -> None:
    """Empty lists stay empty."""
    assert log_probs(llama, [], []) == [] and text_tokens(llama.tokenizer, []) == []
