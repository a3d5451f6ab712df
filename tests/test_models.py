"""Laws of this package's models: the contract for all of them, and laws for some."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.families import weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.lora import SharedLoRA
from recbole_cora.llm.reading import PADDED
from recbole_cora.llm.vectors import SlotVectors
from recbole_cora.models.binary_codes import code_text
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import PromptWords, load_template
from recbole_cora.registry import OURS
from recbole_cora.training.stage import Stage
from tests.contract import ModelContract, world
from tests.llms import prompts, random_weights

__all__ = ["world"]  # a fixture


class TestICL(ModelContract):
    model, memorises_at = "ICL", None


class TestLateFusion(ModelContract):
    model, memorises_at = "LateFusion", None


class TestLateFusionOnSAS(ModelContract):
    model, memorises_at, options = "LateFusion", None, {"cf_encoder": "SAS", "cf_evidence": "all"}


class TestTALLRec(ModelContract):
    model = "TALLRec"


class TestPrompt4NR(ModelContract):
    model, memorises_at, memorised_auc = "Prompt4NR", 0.003, 0.85  # soft tokens are noise to so small an LLM


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
    """Each model in the registry has a contract class in this file."""
    tested_models = {value.model for value in globals().values() if isinstance(value, type) and hasattr(value, "model")}
    assert set(OURS) <= tested_models


@pytest.mark.parametrize("control", ["zeroed", "shuffled", "random"])
@pytest.mark.parametrize("model", ["CoRA", "CoLLM", "BinLLM"])
def test_controls_take_away_what_they_say(
    world: Path, monkeypatch: pytest.MonkeyPatch, model: str, control: str
) -> None:
    """zeroed: the same vectors for every pair; shuffled: those of another test row; random: other vectors."""
    monkeypatch.chdir(world)
    stage, controlled_stage = (
        type("C", (ModelContract,), {"model": model, "options": {"cf_vectors": vectors}})().make()
        for vectors in ("own", control)
    )
    if model == "BinLLM":  # it reads only the encoder's codes, in its prompts
        codes, controlled_codes = _codes_in_prompts(stage), _codes_in_prompts(controlled_stage)
        assert codes != controlled_codes and min(len(set(side)) for side in zip(*codes, strict=True)) > 1
        for side in zip(*controlled_codes, strict=True):
            assert len(set(side)) == 1 if control == "zeroed" else len(set(side)) > 1
        return
    rows = next(stage.rows("test"))
    vectors, controlled = stage.model.encoder(rows), controlled_stage.model.encoder(rows)
    assert [part.shape for part in vectors] == [part.shape for part in controlled]
    if control == "zeroed":
        assert not any(part.any() for part in controlled)
    else:
        assert not torch.equal(vectors[0], controlled[0]) and controlled[0].std(dim=0).min() > 0
    if control == "shuffled":
        all_vectors = torch.cat([torch.cat(stage.model.encoder(batch), dim=1) for batch in stage.rows("test")])
        nearest = torch.cdist(torch.cat(controlled, dim=1), all_vectors).min(dim=1).values
        assert nearest.max() < 1e-4


def _codes_in_prompts(stage: Stage) -> list[tuple[str, str]]:
    """Return the user code and the item code in each row's prompt."""
    texts = [stage.model.prompts.text(row) for row in range(len(stage.ratings))]
    return [re.findall(r"\((?:user )?(\d+(?:\.\d+){3})\)", text) for text in texts]


def test_each_control_is_another_encoder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own identity, so nothing that was trained on one is loaded for another, or read from the cache."""
    monkeypatch.chdir(world)
    stages = [
        type("C", (ModelContract,), {"model": "CoRA", "options": {"cf_vectors": vectors}})().make()
        for vectors in ("own", "zeroed", "shuffled", "random")
    ]
    assert len({stage.identity["CF encoder"] for stage in stages}) == 4


def test_a_lora_and_deltas_on_one_llm_do_not_meet(llm: FrozenLLM) -> None:
    """A LoRA that was used on an LLM leaves no trace: scores without it, and with deltas, are bit for bit as before."""
    ids = prompts(llm)
    targets = weight_targets(llm.model, "qkvo")
    weights = random_weights(targets)
    with torch.no_grad():
        plain, conditioned = llm.score(ids), llm.score(ids, Conditioning(targets, weights))
    state = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    lora = SharedLoRA(llm.model, weight_targets(llm.model, "qv"), rank=2, alpha=4, dropout=0.0)
    torch.testing.assert_close(llm.score(ids, Conditioning(lora=lora)), plain)  # B is zero
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    llm.score(ids, Conditioning(lora=lora)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in lora.parameters())
    with torch.no_grad():
        assert not torch.allclose(llm.score(ids, Conditioning(lora=lora)), plain, atol=1e-3)
        assert torch.equal(llm.score(ids), plain)
        assert torch.equal(llm.score(ids, Conditioning(targets, weights)), conditioned)
    after = llm.model.state_dict()
    assert after.keys() == state.keys() and all(torch.equal(after[name], tensor) for name, tensor in state.items())
    second_lora = SharedLoRA(llm.model, weight_targets(llm.model, "qv"), rank=2, alpha=4, dropout=0.0)
    # Two LoRAs do not interfere either.
    torch.testing.assert_close(llm.score(ids, Conditioning(lora=second_lora)), plain)


def test_vectors_in_slots_are_embeddings(llm: FrozenLLM) -> None:
    """A slot filled with a token's embedding acts as that token and gets gradients: packed, padded and recomputed."""
    ids = prompts(llm)
    table = llm.model.get_input_embeddings()
    places = [[1, len(prompt) // 2] for prompt in ids]
    replaced = torch.tensor([[prompt[place] for place in slots] for prompt, slots in zip(ids, places, strict=True)])
    blank = [
        [5 if place in slots else token for place, token in enumerate(prompt)]
        for prompt, slots in zip(ids, places, strict=True)
    ]
    with torch.no_grad():
        plain = llm.score(ids)
    fastest = llm.reading
    for way in ({"reading": fastest}, {"reading": PADDED}, {"recompute": True}):
        for name, value in way.items():
            setattr(llm, name, value)
        vectors = table(replaced).detach().clone().requires_grad_()
        scores = llm.score(blank, Conditioning(slots=SlotVectors(places, vectors)))
        torch.testing.assert_close(scores, plain, atol=1e-5, rtol=1e-4)
        scores.sum().backward()
        assert vectors.grad is not None and vectors.grad.flatten(1).any(dim=1).all()
        llm.reading, llm.recompute = fastest, False


def test_a_recomputed_lora_has_the_same_gradients(llama: FrozenLLM) -> None:
    """The LoRA is attached again when activations are recomputed in the backward pass."""
    ids = prompts(llama)
    gradients = []
    for recompute in (False, True):
        llama.recompute = recompute
        torch.manual_seed(0)
        lora = SharedLoRA(llama.model, weight_targets(llama.model, "qv"), rank=2, alpha=4, dropout=0.0)
        for parameter in lora.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        llama.score(ids, Conditioning(lora=lora)).sum().backward()
        gradients.append([parameter.grad for parameter in lora.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_slots_are_where_the_prompt_has_them(llm: FrozenLLM) -> None:
    """The user's slot follows the history, the item's slot the title. A title with a slot's token adds no slot."""
    encoder = PromptEncoder(llm.tokenizer, load_template("movies"), llm.max_tokens)
    words = PromptWords(["Heat", encoder.slot], f"Golden{encoder.slot}Eye", encoder.slot * 2, encoder.slot)
    (tokens,) = encoder.encode_all([words])
    first, second, third = encoder.slots(tokens.ids)
    assert second == first + 1
    decode = llm.tokenizer.decode
    assert decode(tokens.ids[:first]).endswith(" (user ")
    assert decode(tokens.ids[:third]).endswith('Eye" (') and "Golden" in decode(tokens.ids[second:third])


def test_without_titles_a_prompt_names_none(llama: FrozenLLM) -> None:
    """The prompt keeps the question and the features."""
    encoder = PromptEncoder(llama.tokenizer, load_template("movies"), llama.max_tokens)
    text = encoder.prompt(PromptWords(None, None, "1.2.3.4", "5.6.7.8")).text
    assert "movies: not shown (user 1.2.3.4). Leverage" in text
    assert "the movie titled not shown (5.6.7.8)?" in text


def test_a_code_reads_as_bits_or_as_bytes() -> None:
    """Thirty-two signs read as four numbers when dotted, and as thirty-two digits in bits."""
    code = torch.tensor([1, -1, -1, -1, -1, -1, -1, 1] + [-1] * 16 + [1] * 8)
    assert code_text(code, "dotted") == "129.0.0.255"
    assert code_text(code, "bits") == "10000001" + "0" * 16 + "1" * 8
