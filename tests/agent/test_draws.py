"""
The draws probe: which batches it takes for repeated ones, and that a loader is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tests.agent.rig import Rig

DATA = TensorDataset(torch.arange(24.0).reshape(12, 2))


class _Trainer:
    """Some steps of a model, with batches that `draw` takes from its loader before each."""

    def __init__(self) -> None:
        model = nn.Linear(2, 1)
        self.rig = Rig(model)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def repeats(self, draw: Callable[[], Any], steps: int = 6) -> list[int]:
        """The column, over the steps that have a row."""
        for _ in range(steps):
            draw()
            self.rig.round(self.optimizer)
        return [int(part["repeats"][-1]) for part in self.rig.table("draws")]


@pytest.fixture
def trainer() -> Iterator[_Trainer]:
    """Closed at the end, when torch is as it was."""
    before = vars(_BaseDataLoaderIter)["__next__"]
    made = _Trainer()
    yield made
    for probe in made.rig.probes:
        probe.close()
    assert vars(_BaseDataLoaderIter)["__next__"] is before


def test_first_batches_count(trainer: _Trainer) -> None:
    """The first step's batch came before anybody listened; the third is the first that is like the one before."""
    loader = DataLoader(DATA, batch_size=4)
    assert trainer.repeats(lambda: next(iter(loader))) == [1, 2, 3, 4]


def test_a_loader_that_is_made_anew_counts(trainer: _Trainer) -> None:
    """So do several microbatches, short of all."""

    def draw() -> None:
        for number, _ in enumerate(DataLoader(DATA, batch_size=4)):
            if number:
                break

    assert trainer.repeats(draw) == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_that_stay_count(trainer: _Trainer) -> None:
    """Their iterator is one object, reset each time."""
    loader = DataLoader(DATA, batch_size=4, num_workers=1, persistent_workers=True)
    assert trainer.repeats(lambda: next(iter(loader)), steps=4) == [1, 2]


class _Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(DATA.tensors[0])


def test_other_batches_do_not_count(trainer: _Trainer) -> None:
    """Whole passes, full batches, shuffled ones, an evaluation's, those of a stream, one iteration that goes on."""
    loader, full = DataLoader(DATA, batch_size=4), DataLoader(DATA, batch_size=12)
    shuffled, stream = DataLoader(DATA, batch_size=4, shuffle=True), DataLoader(_Stream(), 4)
    goes_on = iter(DataLoader(DATA, batch_size=1))

    @torch.no_grad()
    def evaluate() -> None:
        next(iter(loader))

    def both() -> None:
        next(iter(loader))
        next(goes_on)

    draws: list[Callable[[], Any]] = [
        lambda: list(loader),
        lambda: next(iter(full)),
        lambda: next(iter(stream)),
        evaluate,
        both,
    ]
    for draw in draws:
        assert trainer.repeats(draw, steps=4) == []
    assert max(trainer.repeats(lambda: next(iter(shuffled)), steps=12), default=0) < 8


class _Shared(IterableDataset[torch.Tensor]):
    """Its workers split it, give all of it, or all give one sample."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        first, by = (worker.id, worker.num_workers) if self._kind == "split" and worker else (0, 1)
        return (torch.full((3,), 0.0 if self._kind == "one" else i) for i in range(first, 40, by))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("kind", "alike"), [("all", 8), ("split", 0), ("one", 1)])
def test_what_workers_give_is_compared(trainer: _Trainer, kind: str, alike: int) -> None:
    """Round by round, once an iteration; the round in which we began to listen is left out."""
    batches = iter(DataLoader(_Shared(kind), batch_size=None, num_workers=2))
    for _ in range(20):
        next(batches)
        trainer.rig.round(trainer.optimizer)
    (row,) = trainer.rig.table("worker_rounds")
    found = {name: int(row[name][-1]) for name in ("workers", "rounds", "alike")}
    assert found == {"workers": 2, "rounds": 8, "alike": alike}
