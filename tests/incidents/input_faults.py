"""
Small trainers whose DataLoader gives them the same batch for ever, and twins that look alike and are right.
"""

from __future__ import annotations

import itertools

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.incidents.healthy_runs.run import Run, blobs, perceptron, update
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


@FAULTS.of("batch-repeated", steps=30, onset=1)
def iterator_made_at_each_step(healthy: bool) -> Run:
    """`next(iter(loader))`; the twin's loader shuffles, so that it draws at random."""
    loader = DataLoader(TensorDataset(*blobs(0, size=320)), batch_size=32, shuffle=healthy)
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = next(iter(loader))
        return update(optimizer, functional.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@FAULTS.of("batch-repeated", steps=30, onset=1)
def microbatches_from_the_front(healthy: bool) -> Run:
    """Four microbatches a step, of a loop that begins anew at each; the twin goes on where it was."""
    loader = DataLoader(TensorDataset(*blobs(0, size=320)), batch_size=8)
    endless = itertools.cycle(loader)
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        optimizer.zero_grad()
        for values, labels in itertools.islice(endless if healthy else loader, 4):
            loss = functional.cross_entropy(model(values), labels) / 4
            loss.backward()
        optimizer.step()
        return 4 * loss.item()

    return Run(model, optimizer, step)
