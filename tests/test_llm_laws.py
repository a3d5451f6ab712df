"""Laws of the frozen LLM with a pair's weights, on tiny random models of every family in the table."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from recbole_cora.errors import LLMError, SettingError
from recbole_cora.generator import CollaborativeWeightsGenerator
from recbole_cora.llm.conditioning import Conditioning
from recbole_cora.llm.deltas import PairWeights, attached
from recbole_cora.llm.families import FAMILIES, WeightTarget, weight_targets
from recbole_cora.llm.frozen import FrozenLLM
from recbole_cora.llm.tiny import make_tiny_llm
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import load_template
from tests.llms import OPTIONS, SMALL, N, prompts, random_weights


def generator_for(targets: list[WeightTarget]) -> CollaborativeWeightsGenerator:
    torch.manual_seed(0)
    return CollaborativeWeightsGenerator(
        12, targets,
        rank=4, queries=3, blocks=2, heads=2, hidden=16, feed_forward=24,
    )  # fmt: skip


def merged(llm: FrozenLLM, targets: list[WeightTarget], weights: PairWeights, n: int) -> FrozenLLM:
    """Return a copy of the LLM with pair n's dW added to its weights."""
    other = copy.deepcopy(llm)
    modules = dict(llm.model.named_modules())
    for target in targets:
        path = next(path for path, module in modules.items() if module is target.module)
        weight = other.model.get_submodule(path).weight
        rows = torch.arange(target.d_out) if target.rows is None else target.rows
        if isinstance(target.module, torch.nn.Linear):
            weight[rows] += weights.delta(target, n).T
        else:
            weight[:, rows] += weights.delta(target, n)
    return other


def with_peft(llm: FrozenLLM, targets: list[WeightTarget], weights: PairWeights, n: int) -> Tensor:
    """Return the full logits of prompt 0 under peft's own LoRA layers with pair n's A and B."""
    model = copy.deepcopy(llm.model)
    paths = {id(module): path for path, module in llm.model.named_modules()}
    rank = next(iter(weights.A.values())).shape[2]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted({paths[id(t.module)] for t in targets}),
        fan_in_fan_out=not isinstance(targets[0].module, torch.nn.Linear),
    )
    model = peft.get_peft_model(model, config).eval()
    for target in targets:
        layer = model.base_model.model.get_submodule(paths[id(target.module)])
        B = layer.lora_B["default"].weight.data  # [width, r], initially zero
        B[slice(None) if target.rows is None else target.rows] = weights.B[target.name].T
        layer.lora_A["default"].weight.data.copy_(weights.A[target.d_in][n].T)
    return model(input_ids=torch.tensor(prompts(llm)[:1])).logits


def test_every_family_in_the_table_is_checked_here() -> None:
    """These tests cover every family in the table."""
    assert set(OPTIONS) == set(FAMILIES)


def test_with_B_zero_the_llm_is_the_base_llm_bit_for_bit(llm: FrozenLLM) -> None:
    """An untrained generator changes no bit of any score."""
    targets = weight_targets(llm.model, "qkvof")
    weights = generator_for(targets).eval()(torch.randn(N, 1, 12))
    assert torch.equal(llm.score(prompts(llm), Conditioning(targets, weights)), llm.score(prompts(llm)))


@pytest.mark.parametrize("types", ["qkvof", "qk", "v", "o", "f"])
@torch.no_grad()
def test_a_delta_is_an_explicit_W_plus_dW(llm: FrozenLLM, types: str) -> None:
    """Two thin products per pair give the scores of the LLM with that pair's W + dW, and not those of the base LLM."""
    targets = weight_targets(llm.model, types)
    weights = random_weights(targets)
    scores = llm.score(prompts(llm), Conditioning(targets, weights))
    base = llm.score(prompts(llm))
    for n in range(N):
        explicit = merged(llm, targets, weights, n).score([prompts(llm)[n]])[0]
        assert abs(scores[n] - explicit) < 1e-5
    assert (scores - base).abs().max() > 1e-2


@torch.no_grad()
def test_a_delta_is_pefts_lora(llm: FrozenLLM) -> None:
    """Given the same A and B, peft's LoRA gives the same logits at every position."""
    targets = weight_targets(llm.model, "qkvof")
    weights = random_weights(targets)
    with attached(targets, weights.select([2])):
        ours = llm.model(input_ids=torch.tensor(prompts(llm)[:1])).logits
    torch.testing.assert_close(ours, with_peft(llm, targets, weights, 2), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_two_computed_logits_are_the_models_own(llm: FrozenLLM) -> None:
    """The score is the difference of two of the model's logits after the prompt; with "yes" it is the first alone."""
    yes, no = llm.answer_ids
    assert llm.tokenizer.convert_ids_to_tokens([yes, no]) == ["ĠYes", "ĠNo"]
    scores = llm.score(prompts(llm))
    for n, ids in enumerate(prompts(llm)):
        logits = llm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert abs(scores[n] - (logits[yes] - logits[no])) < 1e-5
    llm.answer_score = "yes"
    assert abs(llm.score(prompts(llm)[-1:])[0] - logits[yes]) < 1e-5


@torch.no_grad()
def test_a_batch_equals_one_by_one(llm: FrozenLLM) -> None:
    """The scores do not depend on the batch size or the padding, and keep the prompts' order."""
    targets = weight_targets(llm.model, "qkvo")
    weights = random_weights(targets)
    ids = prompts(llm)
    alone = torch.cat([llm.score([ids[n]], Conditioning(targets, weights.select([n]))) for n in range(N)])
    for llm.batch_tokens in (1, 100, 1000):
        torch.testing.assert_close(llm.score(ids, Conditioning(targets, weights)), alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_deltas_are_gone_after_their_context_and_after_an_exception(llm: FrozenLLM) -> None:
    """Neither a hook nor a changed weight is left."""
    targets = weight_targets(llm.model, "qkvof")
    before, base = llm.fingerprint(), llm.score(prompts(llm))
    llm.score(prompts(llm), Conditioning(targets, random_weights(targets)))
    with pytest.raises(RuntimeError, match="on purpose"), attached(targets, random_weights(targets)):
        raise RuntimeError("on purpose")
    with pytest.raises(LLMError, match="5 pairs"), attached(targets, random_weights(targets)):
        llm.model(input_ids=torch.tensor([[3, 4]]))
    assert not any(module._forward_hooks for module in llm.model.modules())
    assert torch.equal(llm.score(prompts(llm)), base) and llm.fingerprint() == before


def test_a_training_step_moves_every_generator_weight_and_no_llm_weight(llm: FrozenLLM) -> None:
    """Gradients reach every parameter of the generator and none of the LLM, whose fingerprint stays the same."""
    targets = weight_targets(llm.model, "qkvof")
    generator = generator_for(targets)
    for B in generator.L_B.values():
        torch.nn.init.normal_(B)
    before = llm.fingerprint()
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    scores = llm.score(prompts(llm), Conditioning(targets, generator(torch.randn(N, 2, 12))))
    torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.tensor([1.0, 0, 1, 0, 1])).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in llm.parameters())
    assert llm.fingerprint() == before


def test_the_first_step_from_B_zero_moves_only_B(llama: FrozenLLM) -> None:
    """As in LoRA, only B has a gradient while B = 0, and that is enough to start."""
    targets = weight_targets(llama.model, "qkvo")
    generator = generator_for(targets).eval()
    llama.score(prompts(llama), Conditioning(targets, generator(torch.randn(N, 1, 12)))).sum().backward()
    assert all(B.grad is not None and B.grad.abs().max() > 0 for B in generator.L_B.values())
    assert all(p.grad is None or not p.grad.any() for p in generator.blocks.parameters())


def test_the_fingerprint_sees_any_change(llama: FrozenLLM) -> None:
    """Changing a single number changes the fingerprint."""
    before = llama.fingerprint()
    llama.model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-3
    assert llama.fingerprint() != before


def test_the_llm_stays_in_evaluation(llama: FrozenLLM) -> None:
    """A trainer's train() on the model that holds it does not switch its dropout on."""
    holder = torch.nn.ModuleList([llama]).train()
    assert holder.training and not any(module.training for module in llama.modules())


def test_targets_are_named_by_layer_and_kind(folders: dict[str, Path]) -> None:
    """The sizes are the model's own, even if k and v are narrower than d and o is wider."""
    targets = weight_targets(FrozenLLM.load(str(folders["mistral"])).model, "qkvof")
    assert {t.name: (t.d_in, t.d_out) for t in targets if t.layer == 1} == {
        "1.q": (32, 64), "1.k": (32, 32), "1.v": (32, 32), "1.o": (64, 32), "1.up": (32, 48), "1.down": (48, 32),
    }  # fmt: skip


@pytest.mark.parametrize("types", ["", "qx", "qq", "Q"])
def test_unknown_weight_types_are_refused(llama: FrozenLLM, types: str) -> None:
    """The message lists the letters."""
    with pytest.raises(SettingError, match="q, k, v, o and f"):
        weight_targets(llama.model, types)


def test_an_unknown_family_names_llm_modules_and_takes_them(llama: FrozenLLM) -> None:
    """A family that is not in the table works if its modules are named."""
    expected = [(t.name, t.module) for t in weight_targets(llama.model, "qo")]
    llama.model.config.model_type = "unheard_of"
    with pytest.raises(LLMError, match="llm_modules"):
        weight_targets(llama.model, "qo")
    paths = {"layers": "model.layers", "q": "self_attn.q_proj", "o": "self_attn.o_proj"}
    assert [(t.name, t.module) for t in weight_targets(llama.model, "qo", paths)] == expected
    with pytest.raises(LLMError, match="lacks k"):
        weight_targets(llama.model, "qk", paths)
    with pytest.raises(LLMError, match=r"no module 'self_attn\.query'"):
        weight_targets(llama.model, "q", {**paths, "q": "self_attn.query"})
    with pytest.raises(SettingError, match="did you mean 'layers'"):
        weight_targets(llama.model, "q", {"layer": "model.layers"})


def test_weights_of_another_llm_are_refused(llama: FrozenLLM) -> None:
    """A missing or misshapen A or B is named before the LLM runs."""
    targets = weight_targets(llama.model, "q")
    good = random_weights(targets)
    for bad, what in (
        (PairWeights({16: good.A[32]}, good.B, 2.0), "A of input width 32"),
        (PairWeights(good.A, {"0.q": good.B["0.q"]}, 2.0), "B named '1.q'"),
        (PairWeights(good.A, {name: B[:, :8] for name, B in good.B.items()}, 2.0), "expected"),
    ):
        with pytest.raises(LLMError, match=what):
            llama.score(prompts(llama), Conditioning(targets, bad))


def test_what_cannot_be_an_llm_is_refused_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    """The error names what is wrong: missing, truncated, pickled, incomplete, bidirectional, or encoder-decoder."""

    def refused(path: Path | str, match: str, **options: Any) -> None:
        with pytest.raises((LLMError, SettingError), match=match) as caught:
            FrozenLLM.load(str(path), **options)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere", "no LLM folder")
    refused(tmp_path, "expected a Hugging Face folder")
    refused(folders["llama"], "expected auto", dtype="float")
    refused(folders["llama"], "did you mean 'difference'", answer_score="diff")
    refused(folders["llama"], "choose other answers", answers=("Absolutely", "No"))
    refused(folders["llama"], "choose other answers", answers=("Yes", "Yes"))

    truncated = shutil.copytree(folders["llama"], tmp_path / "truncated")
    whole = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(truncated, "cannot load")

    pickled = shutil.copytree(folders["llama"], tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    refused(pickled, "allow_pickle")

    headless = shutil.copytree(folders["gpt2"], tmp_path / "headless")
    config = transformers.AutoConfig.from_pretrained(folders["llama"], tie_word_embeddings=False)
    transformers.LlamaModel(config).save_pretrained(headless)
    refused(headless, "lacks 1 weights, such as lm_head.weight")

    both_ways = shutil.copytree(folders["llama"], tmp_path / "both_ways")
    transformers.BertLMHeadModel(transformers.BertConfig(**SMALL)).save_pretrained(both_ways)
    refused(both_ways, "does not read left to right")

    translator = tmp_path / "translator"
    transformers.T5Config(d_model=32, num_layers=1).save_pretrained(translator)
    refused(translator, "encoder-decoder")


def test_the_tiny_llm_is_an_ordinary_folder_and_repeatable(tmp_path: Path) -> None:
    """Made twice, it is the same LLM. It has learned its answers, and the global random state is unchanged."""
    draw = random.Random(0)
    titles = [f"The {draw.choice(['red', 'blue'])} {draw.choice(['house', 'river'])} {n}" for n in range(50)]
    template = load_template("movies")
    texts = [template.prompt(draw.sample(titles, 3), draw.choice(titles)).text + " Yes" for _ in range(60)]
    state = torch.get_rng_state()
    prints = []
    for name in ("one", "two"):
        make_tiny_llm(tmp_path / name, texts, seed=3, steps=12, hidden=32, layers=1, show_progress=False)
        llm = FrozenLLM.load(str(tmp_path / name))
        prints.append(llm.fingerprint())
    assert prints[0] == prints[1] and torch.equal(state, torch.get_rng_state())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    encoder = PromptEncoder(llm.tokenizer, template, llm.max_tokens)
    assert encoder.encode(titles, titles[0])[0] == llm.tokenizer.bos_token_id
    assert llm.score([encoder.encode(titles, titles[0])])[0] > 0  # it has only ever read Yes
