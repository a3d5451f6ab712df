"""Laws of the generator: the paper's equation (4), with the sizes of its replication."""

from __future__ import annotations

import pytest
import torch

from recbole_cora.errors import SettingError
from recbole_cora.generator import CollaborativeWeightsGenerator
from recbole_cora.llm.families import WeightTarget


def target(layer: int, kind: str, d_in: int, d_out: int) -> WeightTarget:
    return WeightTarget(layer, kind, torch.nn.Identity(), d_in, d_out)


TARGETS = [target(0, "q", 32, 32), target(0, "k", 32, 16), target(0, "down", 80, 32)]


def make(**options: int | float) -> CollaborativeWeightsGenerator:
    torch.manual_seed(0)
    small: dict = {"rank": 4, "queries": 3, "blocks": 2, "heads": 2, "hidden": 16, "feed_forward": 24}
    return CollaborativeWeightsGenerator(12, TARGETS, **{**small, **options})


def test_shapes_are_those_of_equation_4() -> None:
    """A is [N, d, r] for each input width, L_B is [r, d_out] for each target."""
    weights = make()(torch.randn(5, 1, 12))
    assert {width: tuple(A.shape) for width, A in weights.A.items()} == {32: (5, 32, 4), 80: (5, 80, 4)}
    assert {name: tuple(B.shape) for name, B in weights.B.items()} == {
        "0.q": (4, 32), "0.k": (4, 16), "0.down": (4, 32),
    }  # fmt: skip


def test_every_A_has_norm_one() -> None:
    """The whole d*r vector is L2-normalised, so A's Frobenius norm is 1 for every pair and width."""
    for A in make().eval()(torch.randn(5, 2, 12)).A.values():
        assert torch.allclose(A.flatten(1).norm(dim=1), torch.ones(5), atol=1e-6)


def test_a_new_generator_changes_nothing() -> None:
    """L_B starts at zero."""
    assert all(not B.any() for B in make()(torch.randn(2, 1, 12)).B.values())


def test_pairs_do_not_see_each_other() -> None:
    """A pair's weights are the same alone and in any batch; different memories give different weights."""
    generator = make().eval()
    memory = torch.randn(6, 2, 12)
    together = generator(memory).A[32]
    for n in range(6):
        assert torch.allclose(generator(memory[n : n + 1]).A[32][0], together[n], atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_dropout_is_only_for_training() -> None:
    """In evaluation the same memory gives the same weights, and there is no dropout on the LLM's x."""
    generator = make().eval()
    memory = torch.randn(2, 1, 12)
    first, second = generator(memory), generator(memory)
    assert torch.equal(first.A[32], second.A[32]) and not first.training
    assert generator.train()(memory).training


def test_the_parameters_at_7B_are_those_of_the_replication() -> None:
    """42 M in the blocks, 33.6 M in L_A, 8.4 M in L_B for the 4 attention projections of 32 layers of Llama 7B."""
    with torch.device("meta"):
        targets = [target(layer, kind, 4096, 4096) for layer in range(32) for kind in "qkvo"]
        generator = CollaborativeWeightsGenerator(512, targets)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (generator.blocks, generator.L_A, generator.L_B)]
    assert [round(size / 1e6, 1) for size in sizes] == [42.0, 33.6, 8.4]


def test_a_saved_generator_is_the_same_generator() -> None:
    """state_dict contains everything."""
    one, other = make().eval(), make().eval()
    torch.nn.init.normal_(one.queries)
    other.load_state_dict(one.state_dict())
    memory = torch.randn(2, 1, 12)
    assert torch.equal(one(memory).A[80], other(memory).A[80])


def test_impossible_sizes_are_refused() -> None:
    """The error names the number that the hidden size must be a multiple of."""
    with pytest.raises(SettingError, match="multiple of its 3 heads"):
        make(heads=3)
