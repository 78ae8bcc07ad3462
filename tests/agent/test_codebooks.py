"""
How many codes are in use is read from what follows only the chosen ones, whatever else is done with it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.agent.rig import Rig


class Averaged(nn.Module):
    """An encoder, and cluster sizes of 16 codes that follow its choices with a momentum of 0.1."""

    cluster_size: torch.Tensor

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.register_buffer("cluster_size", torch.ones(16))
        self._smoothing = smoothing

    def choose(self, *codes: int) -> None:
        """The counts of one batch, smoothed as in VQ-VAE's averages."""
        counts = functional.one_hot(torch.tensor(codes), 16).sum(0).to(torch.float32)
        self.cluster_size.lerp_(counts, 0.1)
        total, eps = self.cluster_size.sum(), self._smoothing
        self.cluster_size.add_(eps).mul_(total / (total + 16 * eps))


def _train(model: Averaged, rig: Rig, batches: list[tuple[int, ...]]) -> list[tuple[float, float]]:
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    for codes in batches:
        model.choose(*codes)
        model.encoder(torch.randn(2, 4)).square().mean().backward()
        rig.round(optimizer)
    rows = rig.rows("codes", "cluster_size")
    return [(rows[step]["picked"], rows[step]["picked_recently"]) for step in sorted(rows)]


def test_cluster_sizes_tell_who_was_chosen() -> None:
    """In the last batch, and in those before it; the first look has nothing to compare with."""
    model = Averaged()
    said = _train(model, Rig(model), [(0, 1), (0, 1, 1, 7), (3,), (3, 3)])
    assert said == [(3, 3), (1, 4), (1, 4)]


def test_smoothing_chooses_nobody() -> None:
    """A little is added to all, and sizes that have decayed to it stay there."""
    model = Averaged(smoothing=1e-5)
    said = _train(model, Rig(model), [(5, 5, 5, 5)] * 200)
    assert set(said) == {(1, 1)}


def test_how_long_sizes_remember() -> None:
    """A momentum of 0.1 forgets in about ten steps."""
    model = Averaged()
    rig = Rig(model)
    _train(model, rig, [(0, 1), (0, 1), (0,)])
    assert {
        round(row["memory_steps"], 1) for row in rig.rows("codes", "cluster_size").values()
    } == {9.5}


def test_rows_with_a_gradient_are_codes_that_were_chosen() -> None:
    """A codebook that is trained, found by its name; an embedding is none."""
    model = nn.ModuleDict({"codebook": nn.Embedding(8, 4), "words": nn.Embedding(8, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rig = Rig(model)
    for codes in ([1, 2], [2], [2, 3]):
        chosen = torch.tensor(codes)
        optimizer.zero_grad()
        (model["codebook"](chosen).sum() + model["words"](chosen).sum()).backward()
        rig.round(optimizer)
    rows = rig.rows("codes", "codebook.weight")
    assert [(row["picked"], row["picked_recently"]) for row in rows.values()] == [
        (2, 2),
        (1, 2),
        (2, 3),
    ]
    assert not rig.rows("codes", "words.weight")
