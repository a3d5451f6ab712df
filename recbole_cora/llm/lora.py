"""A LoRA that all pairs share, by peft. The frozen LLM's projections are wrapped only within `attached`.

Outside that context the LLM's modules are the original objects, so other models on the same LLM are not affected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from recbole_cora.errors import SettingError
from recbole_cora.llm.families import WeightTarget

_ADAPTER = "shared"


class SharedLoRA(nn.Module):
    """Computes W x + (alpha / r) * B A x in each targeted projection. A starts random, B starts at zero.

    If an LLM fuses q, k and v into one projection, the LoRA covers all three.

    Args:
        model: the Hugging Face model.
        targets: projections of the model, from `weight_targets`.
        rank, alpha, dropout: as in peft.

    Raises:
        SettingError: peft is not installed.
    """

    def __init__(self, model: Any, targets: Sequence[WeightTarget], rank: int, alpha: int, dropout: float) -> None:
        super().__init__()
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise SettingError("a LoRA needs peft; install it: pip install 'recbole-cora[lora]'") from None
        names = {id(module): name for name, module in model.named_modules()}
        paths = list(dict.fromkeys(names[id(target.module)] for target in targets))
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=paths)
        inject_adapter_in_model(config, model, _ADAPTER)
        #: For each projection: its parent, its name there, the plain module, the module with the LoRA.
        self._places: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        layers, dropouts = [], []
        for path in paths:
            parent, name = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
            layer = getattr(parent, name)
            self._places.append((parent, name, layer.get_base_layer(), layer))
            layers.append(nn.ModuleList([layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]]).float())
            dropouts.append(layer.lora_dropout)
        self.layers, self.dropouts = nn.ModuleList(layers), nn.ModuleList(dropouts)
        self._put(attached=False)
        del model.peft_config  # set by peft, but the model has no adapter now
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.requires_grad_(True)

    def freeze(self) -> None:
        """Stop training: from now on there are no gradients and no dropout."""
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> SharedLoRA:
        """Switch between training and evaluation; a frozen LoRA stays in evaluation mode."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Make the LLM read with the LoRA within this context."""
        self._put(attached=True)
        try:
            yield
        finally:
            self._put(attached=False)

    def _put(self, attached: bool) -> None:
        for parent, name, plain, wrapped in self._places:
            setattr(parent, name, wrapped if attached else plain)
