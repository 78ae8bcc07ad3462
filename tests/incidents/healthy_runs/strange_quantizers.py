"""
Short trainings through a bottleneck that chooses or drops: codebooks with few codes in use, dropout that is annealed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.incidents.healthy_runs.run import HealthyRuns, Run, blobs, perceptron, update

RUNS = HealthyRuns()


class _Averaged(nn.Module):
    """Codes that follow, with a momentum of 0.05, what they are chosen for."""

    codes: torch.Tensor
    cluster_size: torch.Tensor

    def __init__(self, first: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", first)
        self.register_buffer("embed_avg", first.clone())
        self.register_buffer("cluster_size", torch.ones(len(first)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        chosen = torch.cdist(values.detach(), self.codes).argmin(1)
        quantized = self.codes[chosen]
        with torch.no_grad():
            ones = F.one_hot(chosen, len(self.codes)).to(values.dtype)
            self.cluster_size.lerp_(ones.sum(0), 0.05)
            self.get_buffer("embed_avg").lerp_(ones.t() @ values, 0.05)
            sizes = self.cluster_size.clamp(min=1e-4)[:, None]
            self.codes.copy_(self.get_buffer("embed_avg") / sizes)
        return values + (quantized - values).detach()


@RUNS.of(160)
def averaged_codes_for_simple_data() -> Run:
    """64 codes, begun from the encoder's outputs, for four classes with little noise: most fall out of use."""
    encoder, decoder = nn.Linear(16, 8), nn.Linear(8, 16)
    first = encoder(blobs(0, size=64)[0]).detach()
    model = nn.ModuleDict({"encoder": encoder, "quantizer": _Averaged(first), "decoder": decoder})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values = blobs(i, noise=0.3)[0]
        hidden = encoder(values)
        quantized = model["quantizer"](hidden)
        loss = F.mse_loss(decoder(quantized), values)
        return update(optimizer, loss + 0.25 * F.mse_loss(hidden, quantized.detach()))

    return Run(model, optimizer, step)


@RUNS.of(160)
def trained_codes_for_simple_data() -> Run:
    """A codebook that is a parameter, and gets its gradient from the codes that are chosen."""
    encoder, decoder = nn.Linear(16, 8), nn.Linear(8, 16)
    codebook = nn.Embedding(32, 8)
    with torch.no_grad():
        codebook.weight.copy_(encoder(blobs(0, size=32)[0]))
    model = nn.ModuleDict({"encoder": encoder, "codebook": codebook, "decoder": decoder})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values = blobs(i, noise=0.3)[0]
        hidden = encoder(values)
        quantized = codebook(torch.cdist(hidden, codebook.weight).argmin(1))
        straight = hidden + (quantized - hidden).detach()
        loss = F.mse_loss(decoder(straight), values) + F.mse_loss(quantized, hidden.detach())
        return update(optimizer, loss + 0.25 * F.mse_loss(hidden, quantized.detach()))

    return Run(model, optimizer, step)


@RUNS.of(120)
def dropout_that_is_annealed() -> Run:
    """From a half to nothing in 80 steps."""
    dropout = nn.Dropout(0.5)
    model = nn.Sequential(perceptron(16, 32), dropout, nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        dropout.p = max(0.0, 0.5 * (1 - i / 80))
        values, labels = blobs(i)
        return update(optimizer, F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@RUNS.of(120)
def dropout_that_ends_early() -> Run:
    """All at 0.2 for 60 steps, and at 0 from then on (early dropout, https://arxiv.org/abs/2303.01500)."""
    dropouts = [nn.Dropout(0.2), nn.Dropout(0.2)]
    model = nn.Sequential(
        perceptron(16, 32), dropouts[0], perceptron(32, 32), dropouts[1], nn.Linear(32, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        for dropout in dropouts if i == 60 else ():
            dropout.p = 0.0
        values, labels = blobs(i)
        return update(optimizer, F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)
