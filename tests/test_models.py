"""Each model of this package keeps the contract, and what is its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.models.binary_codes import code_text
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import Asked, load_template
from recbole_cora.registry import OURS
from recbole_cora.training.stage import Stage
from tests.contract import ModelContract, world
from tests.llms import prompts, random_weights

__all__ = ["world"]  # a fixture


class TestICL(ModelContract):
    model, memorises_at = "ICL", None


class TestTALLRec(ModelContract):
    model = "TALLRec"


class TestPrompt4NR(ModelContract):
    model, memorises_at, memorised_auc = "Prompt4NR", 0.003, 0.85  # to so small an LLM soft tokens are noise


class TestPersonPrompt(ModelContract):
    model = "PersonPrompt"


class TestCoLLM(ModelContract):
    model = "CoLLM"


class TestBinLLM(ModelContract):
    model, memorises_at, options = "BinLLM", 0.003, {"cf_evidence": "all"}


class TestCoRA(ModelContract):
    model, memorises_at = "CoRA", 0.003


class TestCoRAOnTheQuestion(ModelContract):
    model, memorises_at, options = "CoRA", 0.003, {"weights_on": "question"}


class TestCoRAOnSAS(ModelContract):
    model, memorises_at, options = "CoRA", 0.003, {"cf_encoder": "SAS"}


class TestBinaryCodes(ModelContract):
    model, memorises_at = "BinaryCodes", 0.03


class TestMF(ModelContract):
    model = "MF"


class TestLGCN(ModelContract):
    model = "LGCN"


class TestSAS(ModelContract):
    model = "SAS"


class TestAverages(ModelContract):
    model, memorises_at = "Averages", None


class TestHistoryFeatures(ModelContract):
    model, memorises_at = "HistoryFeatures", None


def test_every_model_of_this_package_is_under_contract() -> None:
    """A line in the registry asks for a class here."""
    named = {value.model for value in globals().values() if isinstance(value, type) and hasattr(value, "model")}
    assert set(OURS) <= named


@pytest.mark.parametrize("control", ["zeroed", "shuffled", "random"])
@pytest.mark.parametrize("model", ["CoRA", "CoLLM", "BinLLM"])
def test_controls_take_away_what_they_say(
    world: Path, monkeypatch: pytest.MonkeyPatch, model: str, control: str
) -> None:
    """zeroed: the same of every pair; shuffled: what is known of another user's row; random: other vectors, by user."""
    monkeypatch.chdir(world)
    made: dict[str, Any] = {}
    for vectors in ("own", control):
        contract = type("C", (ModelContract,), {"model": model, "options": {"cf_vectors": vectors}})()
        made[vectors] = contract.make()
    if model == "BinLLM":  # it reads of the encoder only what its codes, in the prompts, say
        of_own, of_other = (_codes_in_prompts(made[vectors]) for vectors in ("own", control))
        assert of_own != of_other and min(len(set(side)) for side in zip(*of_own, strict=True)) > 1
        for side in zip(*of_other, strict=True):
            assert len(set(side)) == 1 if control == "zeroed" else len(set(side)) > 1
        return
    rows = next(made["own"].rows("test"))
    own, other = (made[vectors].model.encoder(rows) for vectors in ("own", control))
    assert [part.shape for part in own] == [part.shape for part in other]
    if control == "zeroed":
        assert not any(part.any() for part in other)
    else:
        assert not torch.equal(own[0], other[0]) and other[0].std(dim=0).min() > 0
    if control == "shuffled":
        known = torch.cat([torch.cat(made["own"].model.encoder(batch), dim=1) for batch in made["own"].rows("test")])
        nearest = torch.cdist(torch.cat(other, dim=1), known).min(dim=1).values
        assert nearest.max() < 1e-4


def _codes_in_prompts(stage: Stage) -> list[tuple[str, str]]:
    """Each row's user and item code, as its prompt says them."""
    texts = [stage.model.prompts.text(row) for row in range(len(stage.ratings))]
    return [re.findall(r"\((?:user )?(\d+(?:\.\d+){3})\)", text) for text in texts]


def test_each_control_is_another_encoder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing that was trained on one is taken from the cache, or loaded, for another."""
    monkeypatch.chdir(world)
    options = [{"cf_vectors": control} for control in ("own", "zeroed", "shuffled", "random")]
    stages = [type("C", (ModelContract,), {"model": "CoRA", "options": each})().make() for each in options]
    assert len({stage.identity["CF encoder"] for stage in stages}) == 4


def test_a_lora_and_deltas_on_one_llm_do_not_meet(llm: FrozenLLM) -> None:
    """A LoRA made and used on it: without the LoRA, and with deltas, the LLM answers bit for bit as before."""
    ids = prompts(llm)
    targets = weight_targets(llm.model, "qkvo")
    weights = random_weights(targets)
    with torch.no_grad():
        plain, conditioned = llm.score(ids), llm.score(ids, targets, weights)
    state = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    lora = SharedLoRA(llm.model, weight_targets(llm.model, "qv"), rank=2, alpha=4, dropout=0.0)
    torch.testing.assert_close(llm.score(ids, lora=lora), plain)  # B is zero
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    llm.score(ids, lora=lora).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in lora.parameters())
    with torch.no_grad():
        assert not torch.allclose(llm.score(ids, lora=lora), plain, atol=1e-3)
        assert torch.equal(llm.score(ids), plain)
        assert torch.equal(llm.score(ids, targets, weights), conditioned)
    now = llm.model.state_dict()
    assert now.keys() == state.keys() and all(torch.equal(now[name], tensor) for name, tensor in state.items())
    other = SharedLoRA(llm.model, weight_targets(llm.model, "qv"), rank=2, alpha=4, dropout=0.0)
    torch.testing.assert_close(llm.score(ids, lora=other), plain)  # nor do two LoRAs meet


def test_vectors_in_slots_are_embeddings(llm: FrozenLLM) -> None:
    """A slot filled with a token's own embedding is that token: packed, padded, recomputed; and gradients arrive."""
    ids = prompts(llm)
    table = llm.model.get_input_embeddings()
    places = [[1, len(prompt) // 2] for prompt in ids]
    known = torch.tensor([[prompt[place] for place in own] for prompt, own in zip(ids, places, strict=True)])
    blank = [
        [5 if place in own else token for place, token in enumerate(prompt)]
        for prompt, own in zip(ids, places, strict=True)
    ]
    with torch.no_grad():
        plain = llm.score(ids)
    packed = llm.packed
    for way in ({"packed": packed}, {"packed": False}, {"recompute": True}):
        for name, value in way.items():
            setattr(llm, name, value)
        vectors = table(known).detach().clone().requires_grad_()
        found = llm.score(blank, slots=SlotVectors(places, vectors))
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
        found.sum().backward()
        assert vectors.grad is not None and vectors.grad.flatten(1).any(dim=1).all()
        llm.packed, llm.recompute = packed, False


def test_a_recomputed_lora_has_the_same_gradients(llama: FrozenLLM) -> None:
    """Activations computed again in the backward pass are computed with the LoRA."""
    ids = prompts(llama)
    found = []
    for recompute in (False, True):
        llama.recompute = recompute
        torch.manual_seed(0)
        lora = SharedLoRA(llama.model, weight_targets(llama.model, "qv"), rank=2, alpha=4, dropout=0.0)
        for parameter in lora.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        llama.score(ids, lora=lora).sum().backward()
        found.append([parameter.grad for parameter in lora.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_slots_are_where_the_prompt_has_them(llm: FrozenLLM) -> None:
    """User's after the history, item's after the title; a title that spells the slot's token makes none."""
    encoder = PromptEncoder(llm.tokenizer, load_template("movies"), llm.max_tokens)
    asked = Asked(["Heat", encoder.slot], f"Golden{encoder.slot}Eye", encoder.slot * 2, encoder.slot)
    (tokens,) = encoder.encode_all([asked])
    first, second, third = encoder.slots(tokens.ids)
    assert second == first + 1
    decode = llm.tokenizer.decode
    assert decode(tokens.ids[:first]).endswith(" (user ")
    assert decode(tokens.ids[:third]).endswith('Eye" (') and "Golden" in decode(tokens.ids[second:third])


def test_without_titles_a_prompt_names_none(llama: FrozenLLM) -> None:
    """What is left is the question, and the features."""
    encoder = PromptEncoder(llama.tokenizer, load_template("movies"), llama.max_tokens)
    text = encoder.prompt(Asked(None, None, "1.2.3.4", "5.6.7.8")).text
    assert "movies: not shown (user 1.2.3.4). Leverage" in text
    assert "the movie titled not shown (5.6.7.8)?" in text


def test_a_code_reads_as_bits_or_as_bytes() -> None:
    """Thirty-two signs are four numbers."""
    code = torch.tensor([1, -1, -1, -1, -1, -1, -1, 1] + [-1] * 16 + [1] * 8)
    assert code_text(code, "dotted") == "129.0.0.255"
    assert code_text(code, "bits") == "10000001" + "0" * 16 + "1" * 8
