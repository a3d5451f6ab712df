"""Laws of reading: padded, packed, pruned, recomputed and shared-prefix reading give the same scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from recbole_cora.errors import LLMError, SettingError
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import WeightTarget, weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.prefix import PrefixCache
from recbole_cora.llm.reading import PADDED, Reading
from recbole_cora.llm.vectors import SlotVectors
from tests.llms import SMALL, N, prompts, random_weights

#: Attributes of a FrozenLLM for each way of reading; pruning is left out for a family that does not allow it.
WAYS: dict[str, dict[str, Any]] = {
    "padded": {"reading": PADDED},
    "padded, recomputed": {"reading": PADDED, "recompute": True},
    "packed": {"reading": Reading(packed=True)},
    "pruned": {"reading": Reading(packed=True, pruned=True)},
    "small rows": {"batch_tokens": 50},
    "recomputed": {"recompute": True},
    "cached prefixes": {"prefixes": PrefixCache(1 << 20)},
}
QUESTIONS = [9, 4, 12, 2, 9]  # start of each prompt's question; prompts 0 and 4 have the same tokens before it


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


def set_way(llm: FrozenLLM, way: dict[str, Any]) -> None:
    for name, value in copy.deepcopy(way).items():
        if isinstance(value, Reading):
            value = replace(value, pruned=value.pruned and llm.reading.pruned)
        setattr(llm, name, value)


@contextmanager
def acting_from(targets: list[WeightTarget], weights: PairWeights, n: int, start: int) -> Iterator[None]:
    """Add pair n's explicit dW on every token of a single prompt from `start` on, as a reference."""

    def add(target: WeightTarget) -> Callable[..., Tensor]:
        def hook(module: Any, inputs: Any, y: Tensor) -> Tensor:
            delta = inputs[0] @ weights.delta(target, n)
            delta = torch.cat([torch.zeros_like(delta[:, :start]), delta[:, start:]], dim=1)
            rows = torch.arange(y.shape[-1]) if target.rows is None else target.rows
            return y.index_add(-1, rows, delta)

        return hook

    handles = [target.module.register_forward_hook(add(target)) for target in targets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reference(llm: FrozenLLM, targets: list[WeightTarget], weights: PairWeights, starts: list[int]) -> Tensor:
    """Return the scores of the N prompts, one at a time, from the model's own full logits."""
    yes, no = llm.answer_ids
    scores = []
    for n, ids in enumerate(prompts(llm)):
        with acting_from(targets, weights, n, starts[n]):
            logits = llm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        scores.append(logits[yes] - logits[no])
    return torch.stack(scores)


def grad_weights(targets: list[WeightTarget]) -> tuple[PairWeights, list[Tensor]]:
    weights = random_weights(targets)
    leaves = [*weights.A.values(), *weights.B.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    return weights, leaves


def test_every_way_gives_the_scores_and_gradients_of_explicit_deltas(llm: FrozenLLM, way: dict[str, Any]) -> None:
    """Scores agree within 1e-5 and gradients within 1e-4, with weights on the whole prompt or on the question."""
    targets = weight_targets(llm.model, "qkvof")
    for questions in (None, QUESTIONS):
        weights, leaves = grad_weights(targets)
        scale = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
        theirs = reference(llm, targets, weights, questions or [0] * N)
        their_gradients = torch.autograd.grad((theirs * scale).sum(), leaves)
        set_way(llm, way)
        ours = llm.score(prompts(llm), Conditioning(targets, weights, questions))
        again = llm.score(prompts(llm), Conditioning(targets, weights, questions))
        gradients = torch.autograd.grad((again * scale).sum(), leaves)
        assert (ours - theirs).abs().max() < 1e-5 and torch.equal(ours, again)
        for one, other in zip(gradients, their_gradients, strict=True):
            assert (one - other).norm() <= 1e-4 * other.norm()


def test_the_question_is_the_frozen_models_before_it_begins(llama: FrozenLLM) -> None:
    """Tokens before a question are read without the weights, so scores differ from those with weights on all tokens."""
    targets = weight_targets(llama.model, "qkvo")
    weights = random_weights(targets)
    whole = llama.score(prompts(llama), Conditioning(targets, weights))
    question = llama.score(prompts(llama), Conditioning(targets, weights, QUESTIONS))
    assert (whole - question).abs().min() > 1e-4


def test_a_prefix_is_read_once(llama: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates with the same history read it once per call, and only once in all if the cache has room."""
    token_counts: list[int] = []
    forward = FrozenLLM._forward

    def counting(self: FrozenLLM, rows: Any, packing: Any) -> Tensor:
        token_counts.append(sum(map(len, rows)))
        return forward(self, rows, packing)

    monkeypatch.setattr(FrozenLLM, "_forward", counting)
    targets = weight_targets(llama.model, "qkvo")
    history = list(range(10, 40))
    candidates = [[*history, 50 + n, 60] for n in range(N)]
    weights, questions = random_weights(targets), [len(history)] * N
    alone = [
        llama.score([ids], Conditioning(targets, weights.select([n]), [len(history)]))
        for n, ids in enumerate(candidates)
    ]
    token_counts.clear()
    together = llama.score(candidates, Conditioning(targets, weights, questions))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert token_counts == [len(history), 2 * N]
    llama.prefixes = PrefixCache(1 << 20)
    llama.score(candidates, Conditioning(targets, weights, questions))
    token_counts.clear()
    assert torch.equal(llama.score(candidates, Conditioning(targets, weights, questions)), together)
    assert token_counts == [2 * N] and len(llama.prefixes) == 1


def test_a_full_cache_keeps_what_it_has() -> None:
    """No entry is evicted, and none is added beyond the limit."""
    cache = PrefixCache(2 * 4 * 10)
    for name in (b"a", b"b", b"c"):
        cache.offer(name, (torch.zeros(10),))
    assert cache.get(b"a") is not None and cache.get(b"b") is not None and cache.get(b"c") is None
    assert cache.bytes == 80
    cache.clear()
    assert len(cache) == cache.bytes == 0


@pytest.mark.parametrize("start", [0, 1000])
def test_a_question_outside_its_prompt_is_refused(llama: FrozenLLM, start: int) -> None:
    targets = weight_targets(llama.model, "q")
    with pytest.raises(LLMError, match="outside its prompt"):
        llama.score(prompts(llama), Conditioning(targets, random_weights(targets), [start] * N))


def test_starts_and_slots_do_not_go_together(llama: FrozenLLM) -> None:
    """A prefix that prompts share is read without slots, so the combination is refused."""
    vectors = torch.zeros(N, 1, llama.hidden_size)
    with pytest.raises(LLMError, match="whole prompt"):
        llama.score(prompts(llama), Conditioning(starts=[2] * N, slots=SlotVectors([[1]] * N, vectors)))


def test_what_cannot_be_packed_is_read_padded_and_said(
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model that scores differently when packed, here by wrong positions, is read padded, and the log says so."""
    from recbole_cora.llm import packed

    unpatched = FrozenLLM.load(str(folders["llama"]), dtype="float32")
    expected = unpatched.score(prompts(unpatched))
    monkeypatch.setattr(packed.Packing, "positions", lambda self: torch.arange(sum(self.lengths)).unsqueeze(0) * 7)
    with caplog.at_level("INFO"):
        other = FrozenLLM.load(str(folders["llama"]), dtype="float32")
    assert not other.reading.packed and not other.reading.pruned and "not packed" in caplog.text
    torch.testing.assert_close(other.score(prompts(other)), expected, atol=1e-5, rtol=0)


def test_every_family_of_the_table_is_packed(llm: FrozenLLM) -> None:
    """No known family falls back to padded reading. GPT-2's code reshapes by row, so its last block is not pruned."""
    assert llm.reading.packed and llm.reading.shares_prefixes
    assert llm.reading.pruned or llm.model.config.model_type == "gpt2"


def test_bfloat16_stays_near_float32(folders: dict[str, Path]) -> None:
    """Scores agree within 2% of their spread, with weights on the whole prompt or on the question."""
    exact = FrozenLLM.load(str(folders["llama"]), dtype="float32")
    coarse = FrozenLLM.load(str(folders["llama"]), dtype="bfloat16")
    assert coarse.dtype == "bfloat16" and coarse.reading.packed and coarse.fingerprint() == exact.fingerprint()
    weights = random_weights(targets := weight_targets(exact.model, "qkvo"))
    coarse_targets = weight_targets(coarse.model, "qkvo")
    for questions in (None, QUESTIONS):
        truth = exact.score(prompts(exact), Conditioning(targets, weights, questions))
        scores = coarse.score(prompts(coarse), Conditioning(coarse_targets, weights, questions))
        assert scores.dtype == torch.float32
        assert (scores - truth).abs().max() < 0.02 * (truth.max() - truth.min())


def test_an_offloaded_llm_is_the_llm(folders: dict[str, Path], tmp_path: Path) -> None:
    """An LLM with blocks on disk has the same fingerprint, scores and gradients, and is read packed and pruned."""
    whole = FrozenLLM.load(str(folders["llama"]), dtype="float32")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "disk", "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "disk"}
    other = FrozenLLM.load(
        str(folders["llama"]), dtype="float32", device_map=places, offload_folder=str(tmp_path / "offloaded")
    )
    assert next(other.model.model.layers[1].parameters()).is_meta
    assert other.reading.pruned and other.reading.shares_prefixes and other.fingerprint() == whole.fingerprint()
    results = []
    for one in (whole, other):
        targets = weight_targets(one.model, "qkvo")
        weights, leaves = grad_weights(targets)
        for questions in (None, QUESTIONS):
            scores = one.score(prompts(one), Conditioning(targets, weights, questions))
            results.append([scores, *torch.autograd.grad(scores.square().sum(), leaves)])
    for ours, theirs in zip(results[2:], results[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert next(other.model.model.layers[1].parameters()).is_meta  # offloaded again after each pass


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_quantised_llm_takes_the_same_deltas(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Its weights are rounded but its deltas are not: they act as an explicit dW on the rounded model."""
    pytest.importorskip("bitsandbytes")
    config = transformers.LlamaConfig(**{**SMALL, "hidden_size": 128, "intermediate_size": 256})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    FrozenLLM.load(str(folders["llama"])).tokenizer.save_pretrained(tmp_path)
    whole = FrozenLLM.load(str(tmp_path), dtype="float32")
    small = FrozenLLM.load(str(tmp_path), dtype="float32", quantised=kind)
    assert small.reading.packed and small.reading.pruned and small.fingerprint() != whole.fingerprint()
    weights = random_weights(small_targets := weight_targets(small.model, "qkvo"))
    scores = small.score(prompts(small), Conditioning(small_targets, weights))
    explicit = reference(small, small_targets, weights, [0] * N)
    unrounded = whole.score(prompts(whole), Conditioning(weight_targets(whole.model, "qkvo"), weights))
    spread = unrounded.max() - unrounded.min()
    assert (scores - explicit).abs().max() < 0.05 * spread
    assert 0 < (scores - unrounded).abs().max() < spread


def test_quantisation_without_bitsandbytes_names_its_install_command(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(LLMError, match=r"pip install 'recbole-cora\[quantised\]'"):
        FrozenLLM.load(str(folders["llama"]), quantised="4bit")
    with pytest.raises(SettingError, match="did you mean '4bit'"):
        FrozenLLM.load(str(folders["llama"]), quantised="4-bit")
