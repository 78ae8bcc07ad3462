"""
Short trainings whose data comes in unusual ways, and rightly so.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.incidents.healthy_runs.run import HealthyRuns, Run, blobs, perceptron, update

RUNS = HealthyRuns()


class _Drawn(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples that are made at random when they are asked for."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, labels = blobs(int(torch.randint(0, 1 << 30, ())), size=1)
        return values[0], labels[0]


@RUNS.of(120)
def generated_data_from_a_new_iterator_each_step() -> Run:
    """The loader does not shuffle, for what it gives is random in any case."""
    loader = DataLoader(_Drawn(), batch_size=16)
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = next(iter(loader))
        return update(optimizer, F.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@RUNS.of(120)
def all_of_the_data_in_each_step() -> Run:
    """Full batches as a loader of one batch, the validation's first batch after each step."""
    everything = TensorDataset(*blobs(0, size=64))
    loader = DataLoader(everything, batch_size=64)
    validation = DataLoader(everything, batch_size=16)
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        for values, labels in loader:
            loss = update(optimizer, F.cross_entropy(model(values), labels))
        with torch.no_grad():
            values, labels = next(iter(validation))
            F.cross_entropy(model(values), labels)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(80)
def one_step_for_all_microbatches() -> Run:
    """Gradients of the whole data set are added up, in the same order each time, before a step is made."""
    loader = DataLoader(TensorDataset(*blobs(0, size=64)), batch_size=16)
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        optimizer.zero_grad()
        for values, labels in loader:
            loss = F.cross_entropy(model(values), labels) / 4
            loss.backward()
        optimizer.step()
        return 4 * loss.item()

    return Run(model, optimizer, step)
