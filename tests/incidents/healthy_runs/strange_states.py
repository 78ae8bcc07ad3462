"""
Short trainings whose state is unusual and right: masks of -inf, ties, parametrizations, parts that rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from tests.incidents.healthy_runs.run import (
    HealthyRuns,
    Run,
    blobs,
    generator,
    perceptron,
    update,
)
from tests.incidents.healthy_runs.transformer import Decoder, text_batch

RUNS = HealthyRuns()


@RUNS.of(120)
def tied_embeddings_and_infinite_masks() -> Run:
    """A character model whose head is its embedding, and whose masks hold -inf."""
    model = Decoder(width=16, tied=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(
        model, optimizer, lambda i: update(optimizer, model.loss(*text_batch(i, 4)), model.parameters())
    )  # fmt: skip


@RUNS.of(160)
def normalised_weights() -> Run:
    """Weight normalisation and spectral normalisation: weights that are made of other parameters and buffers."""
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(16, 32)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(32, 32)),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(32, 4)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Run(
        model, optimizer, lambda i: update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
    )  # fmt: skip


@RUNS.of(160)
def one_example_at_a_time() -> Run:
    """Batches of one, dropout of a half, an optimizer without momentum: as noisy as it gets."""
    model = nn.Sequential(
        nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def step(i: int) -> float:
        values, labels = blobs(i, size=1)
        return update(optimizer, F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@RUNS.of(200)
def loss_that_becomes_zero() -> Run:
    """A hinge loss on points that can be parted: from some step on loss and gradients are exactly 0."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(i: int) -> float:
        values, labels = blobs(i, noise=0.1)
        return update(optimizer, F.multi_margin_loss(model(values), labels, margin=0.2))

    return Run(model, optimizer, step)


class TwoHeads(nn.Module):
    """One trunk, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(16, 32, 32)
        self.first = nn.Linear(32, 4)
        self.second = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        out: torch.Tensor = (self.second if task else self.first)(self.trunk(x).relu())
        return out


@RUNS.of(160)
def tasks_in_turn() -> Run:
    """A head rests while the other task has its five batches."""
    model = TwoHeads()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizer, F.cross_entropy(model(values, i // 5 % 2), labels))

    return Run(model, optimizer, step)


@RUNS.of(160)
def head_without_a_use() -> Run:
    """A head that was frozen because this task does not use it; the optimizer was given all parameters."""
    model = TwoHeads()
    model.second.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Run(
        model, optimizer, lambda i: update(optimizer, F.cross_entropy(model(blobs(i)[0], 0), blobs(i)[1]))
    )  # fmt: skip


class FakeQuantized(nn.Module):
    """A layer that trains as if its weight had eight bits; the observer's range begins at infinity."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        self.register_buffer("lowest", torch.tensor(float("inf")))
        self.register_buffer("highest", torch.tensor(float("-inf")))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("is_observing", torch.ones(1, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.linear.weight
        if self.get_buffer("is_observing").item():
            self._observe(weight.detach())
        quantized = torch.fake_quantize_per_tensor_affine(
            weight, self.get_buffer("scale"), self.get_buffer("zero_point"), -128, 127
        )
        return F.linear(x, quantized, self.linear.bias)

    def _observe(self, weight: torch.Tensor) -> None:
        lowest, highest = self.get_buffer("lowest"), self.get_buffer("highest")
        lowest.copy_(torch.minimum(lowest, weight.min()))
        highest.copy_(torch.maximum(highest, weight.max()))
        self.get_buffer("scale").copy_((highest - lowest) / 255)
        zero = -128 - torch.round(lowest / self.get_buffer("scale"))
        self.get_buffer("zero_point").copy_(zero.clamp(-128, 127))


@RUNS.of(200)
def quantisation_aware() -> Run:
    """Ranges are observed for 120 steps and then held."""
    layers = [FakeQuantized(16, 32), FakeQuantized(32, 4)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        if i == 120:
            for layer in layers:
                layer.get_buffer("is_observing").zero_()
        return update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))

    return Run(model, optimizer, step)


class Masked(nn.Module):
    """Keeps the mask of the last batch, of another length each time, and its hidden state, which is no buffer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.register_buffer("mask", None, persistent=False)
        self.hidden = torch.zeros(1, 8, 16)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.mask = torch.arange(x.shape[1])[None] < lengths[:, None]
        states, self.hidden = self.rnn(x, self.hidden.detach())
        scores = states.sum(-1).masked_fill(~self.mask, float("-inf")).softmax(1)
        out: torch.Tensor = self.head((scores[..., None] * states).sum(1))
        return out


@RUNS.of(160)
def masks_made_anew() -> Run:
    """A recurrent net over sequences of changing length, whose hidden state goes on from batch to batch."""
    model = Masked()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        draw = generator(9, i)
        longest = 4 + i % 7
        values = torch.randn(8, longest, 8, generator=draw)
        lengths = torch.randint(2, longest + 1, (8,), generator=draw)
        loss = F.cross_entropy(model(values, lengths), (values[:, 0, 0] > 0).long())
        return update(optimizer, loss, clip=model.parameters())

    return Run(model, optimizer, step)


@RUNS.of(200)
def pruned_weights() -> Run:
    """Half of the weights are masked away at step 100: the weight becomes another parameter and a mask beside it."""
    model = perceptron(16, 32, 4)
    prune.l1_unstructured(model[0], "weight", amount=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(i: int) -> float:
        if i == 100:
            prune.l1_unstructured(model[0], "weight", amount=0.5)
        return update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))

    return Run(model, optimizer, step)


class Residual(nn.Module):
    """Blocks that begin as nothing (gates of 0, a scale of 1e-6), of which some are left out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(16, 32)
        self.blocks = nn.ModuleList(perceptron(32, 32, 32) for _ in range(4))
        self.gates = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.full((32,), 1e-6))
        self.temperature = nn.Parameter(torch.tensor(4.6))
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        for number, block in enumerate(self.blocks):
            if kept[number]:
                x = x + (self.gates[number] + self.scale) * block(x)
        out: torch.Tensor = F.normalize(self.head(x), dim=1) * self.temperature.exp()
        return out


@RUNS.of(240)
def residual_blocks_left_out() -> Run:
    """Layers dropped at random, zero gates, and a temperature that is clamped at its bound after each step."""
    model = Residual()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)

    def step(i: int) -> float:
        kept = torch.rand(4, generator=generator(10, i)) > 0.3
        loss = update(optimizer, F.cross_entropy(model(blobs(i, noise=0.2)[0], kept), blobs(i)[1]))
        with torch.no_grad():
            model.temperature.clamp_(0, 4.6052)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(200)
def outlier_batches() -> Run:
    """Every fortieth batch is a hundred times too large; clipping takes care of it."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = F.cross_entropy(model(values * (100 if i % 40 == 39 else 1)), labels)
        return update(optimizer, loss, clip=model.parameters())

    return Run(model, optimizer, step)


@RUNS.of(160)
def group_at_rest() -> Run:
    """One group has a learning rate of 0 throughout, and a vocabulary of which only a tenth occurs."""
    embedding, layers = nn.Embedding(500, 16), perceptron(16, 32, 4)
    model = nn.Sequential(embedding, layers)
    groups: list[dict[str, Any]] = [{"params": embedding.parameters()}]
    groups.append({"params": layers[:1].parameters(), "lr": 0.0})
    groups.append({"params": layers[1:].parameters()})
    optimizer = torch.optim.Adam(groups, lr=1e-2)

    def step(i: int) -> float:
        ids = torch.randint(0, 50, (64,), generator=generator(11, i))
        return update(optimizer, F.cross_entropy(model(ids), ids % 4))

    return Run(model, optimizer, step)


@RUNS.of(200)
def optimizer_changed_midway() -> Run:
    """Adam for 100 steps, then a new SGD with momentum over the same parameters."""
    model = perceptron(16, 32, 4)
    first = torch.optim.Adam(model.parameters(), lr=5e-3)
    second = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(i: int) -> float:
        loss = F.cross_entropy(model(blobs(i)[0]), blobs(i)[1])
        return update(first if i < 100 else second, loss)

    return Run(model, first, step, extra={"optimizers": [first, second]})
