"""
Short trainings whose gradients are handled unusually and right: clipped hard, made noisy, kept for longer, divided among
optimizers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from tests.incidents.healthy_runs.run import (
    HealthyRuns,
    Run,
    blobs,
    generator,
    perceptron,
    update,
)

RUNS = HealthyRuns()


@RUNS.of(200)
def summed_loss_clipped_hard() -> Run:
    """A loss summed over the batch, gradients clipped to a thousandth of their norm, Adam: the size does not matter."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i, size=64)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(values), labels, reduction="sum")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@RUNS.of(200)
def normalised_gradients() -> Run:
    """Every update has the same length: gradients are divided by their norm, and the learning rate does the rest."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def step(i: int) -> float:
        values, labels = blobs(i)
        optimizer.zero_grad()
        loss = F.cross_entropy(100 * model(values), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(1e3)
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@RUNS.of(160)
def small_loss() -> Run:
    """A loss of a millionth, as of a physical unit; Adam does not mind."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-15)

    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizer, 1e-6 * F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@RUNS.of(160)
def private_gradients() -> Run:
    """Clipped, made noisy and put back as other tensors, which are zeroed in place after each step, not before."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = F.cross_entropy(model(values), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=generator(13, i, number))
            assert parameter.grad is not None
            parameter.grad = parameter.grad + 0.01 * noise
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss.item()

    return Run(model, optimizer, step)


@RUNS.of(200)
def statistics_held_by_design() -> Run:
    """Fine-tuning with small batches: everything learns, but BatchNorm keeps the statistics it came with."""
    layers = [nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)]
    model = nn.Sequential(*layers)
    first = torch.optim.Adam(model.parameters(), lr=5e-3)
    for i in range(60):
        update(first, F.cross_entropy(model(blobs(-i)[0]), blobs(-i)[1]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        model.train()
        layers[1].eval()
        values, labels = blobs(i, size=4)
        return update(optimizer, F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@RUNS.of(200)
def rows_held_by_a_hook() -> Run:
    """New words are learned: a hook on the gradient keeps the old rows of the embedding as they are."""
    embedding = nn.Embedding(64, 16)
    layers = perceptron(16, 32, 4)
    model = nn.Sequential(embedding, layers)
    kept = (torch.arange(64) >= 48).float()[:, None]
    embedding.weight.register_hook(lambda gradient: gradient * kept)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        ids = torch.randint(0, 64, (64,), generator=generator(14, i))
        return update(optimizer, F.cross_entropy(model(ids), ids % 4))

    return Run(model, optimizer, step)


@RUNS.of(160)
def optimizers_of_many_kinds() -> Run:
    """A kind of optimizer for each layer, fused and not, all stepping in every step."""
    model = perceptron(16, 32, 32, 32, 32, 32, 4)
    layers = [list(layer.parameters()) for layer in model if list(layer.parameters())]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(layers[0], lr=3e-3, fused=True),
        torch.optim.Adafactor(layers[1], lr=3e-3),
        torch.optim.RMSprop(layers[2], lr=1e-3, momentum=0.5),
        torch.optim.Adagrad(layers[3], lr=1e-2),
        torch.optim.NAdam(layers[4], lr=3e-3),
        torch.optim.SGD(layers[5], lr=0.05, momentum=0.9, nesterov=True),
    ]

    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizers, F.cross_entropy(model(values), labels))

    return Run(model, optimizers[0], step, extra={"optimizers": optimizers})


@RUNS.of(160)
def parts_of_changing_number() -> Run:
    """One to five microbatches a step, and a last one that is cut off and counts for the next."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        parts = 1 + i * 7 % 5
        loss = torch.zeros(())
        for part in range(parts):
            values, labels = blobs(5 * i + part)
            loss = F.cross_entropy(model(values), labels) / parts
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if i % 20 == 19:
            F.cross_entropy(model(blobs(-i, size=3)[0]), blobs(-i, size=3)[1]).mul(0.1).backward()
        return parts * loss.item()

    return Run(model, optimizer, step)


@RUNS.of(160)
def critic_at_its_bound() -> Run:
    """A critic whose weights are clamped after each step: most of them lie at the bound, and stay there."""
    critic = perceptron(8, 16, 1)
    optimizer = torch.optim.RMSprop(critic.parameters(), lr=5e-3)

    def step(i: int) -> float:
        noise = torch.randn(64, 8, generator=generator(15, i))
        loss = critic(noise).mean() - critic(noise + 3.0).mean()
        value = update(optimizer, loss)
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-0.01, 0.01)
        return value

    return Run(critic, optimizer, step)


@RUNS.of(160)
def head_that_begins_late() -> Run:
    """An auxiliary head joins at step 60; before, it has no gradient, though the optimizer holds it."""
    trunk, head, late = perceptron(16, 32, 32), nn.Linear(32, 4), nn.Linear(32, 4)
    model = nn.ModuleDict({"trunk": trunk, "head": head, "late": late})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        hidden = trunk(values).relu()
        loss = F.cross_entropy(head(hidden), labels)
        if i >= 60:
            loss = loss + 0.3 * F.cross_entropy(late(hidden), labels)
        return update(optimizer, loss)

    return Run(model, optimizer, step)


@RUNS.of(150)
def unfrozen_layer_by_layer_through_rates() -> Run:
    """Groups rest at a rate of zero, from the head back to the front one after the other begins; one never does."""
    model = perceptron(16, 32, 32, 32, 4)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    optimizer = torch.optim.AdamW([{"params": list(each.parameters())} for each in layers], lr=3e-3)
    begins = [10**9, 100, 50, 0]
    schedule = LambdaLR(optimizer, [lambda i, b=begin: float(i >= b) for begin in begins])  # type: ignore[misc]

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, F.cross_entropy(model(values), labels))
        schedule.step()
        return loss

    return Run(model, optimizer, step)


@RUNS.of(400)
def rate_that_a_plateau_brings_down() -> Run:
    """ReduceLROnPlateau on a loss that has long reached what it can: the rate falls by ten, down to its bound."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = ReduceLROnPlateau(optimizer, patience=10)

    def step(i: int) -> float:
        values, labels = blobs(i, noise=0.2)
        loss = update(optimizer, F.cross_entropy(model(values), labels, label_smoothing=0.1))
        schedule.step(loss)
        return loss

    return Run(model, optimizer, step)
