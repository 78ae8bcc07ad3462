"""
Small trainers whose parameters begin wrong, are decayed wrongly or do not follow, each with the twin that is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs, update
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


@FAULTS.of("norm-collapse", steps=160, onset=0, subject="input_layernorm.weight")
def gains_named_otherwise(healthy: bool) -> Run:
    """The list of what is not decayed says `LayerNorm`, the model `input_layernorm`."""
    model = nn.ModuleDict(
        {
            "inside": nn.Linear(16, 32),
            "input_layernorm": nn.LayerNorm(32),
            "middle": nn.Linear(32, 32),
            "output_layernorm": nn.LayerNorm(32),
            "outside": nn.Linear(32, 4),
        }
    )
    exempt = ("bias", "layernorm" if healthy else "LayerNorm")
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if not any(part in name for part in exempt)]},
        {
            "params": [p for name, p in named if any(part in name for part in exempt)],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=3.0)

    def step(i: int) -> float:
        values, labels = blobs(i)
        hidden = functional.gelu(model["input_layernorm"](model["inside"](values)))
        hidden = functional.gelu(model["output_layernorm"](model["middle"](hidden)))
        return update(optimizer, functional.cross_entropy(model["outside"](hidden), labels))

    return Run(model, optimizer, step)
