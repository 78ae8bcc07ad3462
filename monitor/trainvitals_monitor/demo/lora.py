"""
Low-rank adapters (LoRA) on the attention of the small model: B starts at zero, A at random, the base is frozen.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from trainvitals_monitor.demo.model import Attention


class LoraLinear(nn.Module):
    """`base(x) + scale * B(A(x))`."""

    def __init__(self, base: nn.Linear, rank: int = 8, scale: float = 2.0) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        self.scale = scale

    def init_adapter(self) -> None:
        """As the LoRA paper starts: the adapter adds nothing at first, and B has a gradient at once."""
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The base's answer, and the adapter's."""
        adapted: Tensor = self.base_layer(x) + self.scale * self.lora_b(self.lora_a(x))
        return adapted


def add_lora(model: nn.Module) -> list[LoraLinear]:
    """Freeze the model and put an adapter on each query and value projection."""
    model.requires_grad_(False)
    adapters = []
    for attention in [module for module in model.modules() if isinstance(module, Attention)]:
        for name in ("wq", "wv"):
            adapter = LoraLinear(getattr(attention, name))
            setattr(attention, name, adapter)
            adapters.append(adapter)
    return adapters
