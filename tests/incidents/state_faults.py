"""
Small trainers with a fault of modes, statistics, ties, gradients or optimizer state, and with the twin that has none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs


class StateFault:
    """One trainer, faulty or not; `META` and `build` are those of a case. `detector` finds it from `onset` on."""

    def __init__(
        self, detector: str, steps: int, onset: int, subject: str, make: Callable[[bool], Run]
    ) -> None:
        self.detector, self.onset, self.subject = detector, onset, subject
        self.META: dict[str, Any] = {"id": make.__name__, "steps": steps, "world_size": 1}
        self._make = make

    def build(self, healthy: bool, rank: int, world_size: int) -> Run:
        """The trainer, ready for its first step."""
        torch.manual_seed(0)
        return self._make(healthy)

    def __str__(self) -> str:
        return str(self.META["id"])


class StateFaults:
    """The faults of this file, collected by a decorator."""

    def __init__(self) -> None:
        self._found: list[StateFault] = []

    def __iter__(self) -> Iterator[StateFault]:
        return iter(self._found)

    def of(
        self, detector: str, *, steps: int, onset: int, subject: str = ""
    ) -> Callable[[Callable[[bool], Run]], Callable[[bool], Run]]:
        """The decorated function makes a trainer; its argument says whether it is healthy."""

        def add(make: Callable[[bool], Run]) -> Callable[[bool], Run]:
            self._found.append(StateFault(detector, steps, onset, subject, make))
            return make

        return add


FAULTS = StateFaults()


def _network(norm: bool = True) -> nn.Sequential:
    middle: nn.Module = nn.BatchNorm1d(32) if norm else nn.LayerNorm(32)
    return nn.Sequential(nn.Linear(16, 32), middle, nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))


def _loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, labels)


@FAULTS.of("eval-mode-in-training", steps=40, onset=16, subject="0.weight")
def left_in_eval_mode_by_an_evaluation(healthy: bool) -> Run:
    """An evaluation after step 15 forgets to go back; no batch norm, but dropout."""
    model = _network(norm=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = _loss(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i == 15:
            model.eval()
            model(values)
            model.train(healthy)
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("batch-norm-frozen", steps=30, onset=0, subject="1.running_mean")
def statistics_of_a_copy(healthy: bool) -> Run:
    """The forward pass is given copies of the buffers, which nobody copies back."""
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        output = model(values) if healthy else functional_call(model, copies, (values,))
        loss = _loss(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("buffer-stuck", steps=30, onset=0, subject="teacher.1.running_var")
def average_of_parameters_only(healthy: bool) -> Run:
    """A momentum encoder: its statistics are its own when it is in train mode, and nobody's in eval mode."""
    student = _network()
    teacher = copy.deepcopy(student).requires_grad_(False).train(healthy)
    model = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = _loss(student(values), labels)
        teacher(values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(its, 0.1)
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("tied-weights-broken", steps=30, onset=10, subject="2.weight")
def tie_broken_while_training(healthy: bool) -> Run:
    """A layer is replaced by a copy before the eleventh step."""
    first, last = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    last.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        if i == 10 and not healthy:
            last.weight = nn.Parameter(first.weight.detach().clone())
            optimizer.add_param_group({"params": [last.weight]})
        values, labels = blobs(i)
        loss = _loss(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


def _uncleared(healthy: bool, clip: float | None) -> Run:
    model = _network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i, size=256)
        loss = _loss(model(values), labels)
        if healthy:
            optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("gradient-not-cleared", steps=40, onset=1)
def gradients_added_up(healthy: bool) -> Run:
    """Never cleared; the twin clears them in place."""
    return _uncleared(healthy, clip=None)


@FAULTS.of("gradient-not-cleared", steps=40, onset=1)
def gradients_added_up_and_clipped(healthy: bool) -> Run:
    """Clipping keeps the sums from growing."""
    return _uncleared(healthy, clip=1.0)


@FAULTS.of("optimizer-state-low-precision", steps=300, onset=255, subject="weight")
def counter_in_bfloat16(healthy: bool) -> Run:
    """The optimizer's state is cast with everything else after the first step."""
    model = nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = _loss(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i == 0 and not healthy:
            for state in optimizer.state.values():
                state["step"] = state["step"].bfloat16()
        return loss.item()

    return Run(model, optimizer, step)


class _Counting(nn.Module):
    """A layer that counts its batches."""

    batches: torch.Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.register_buffer("batches", torch.zeros((), dtype=dtype))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        return cast(torch.Tensor, self.layer(values))


@FAULTS.of("counter-stuck", steps=290, onset=255, subject="batches")
def batches_counted_in_bfloat16(healthy: bool) -> Run:
    """The counter was cast with the model; the twin keeps it in float32."""
    model = _Counting(torch.float32 if healthy else torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = _loss(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


class _Centred(nn.Module):
    """A layer that takes from its inputs a mean which it follows itself."""

    centre: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.register_buffer("centre", torch.zeros(16))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.centre.lerp_(values.detach().mean(0).to(self.centre.dtype), 0.1)
        dtype = self.layer.weight.dtype
        return cast(torch.Tensor, self.layer((values - self.centre).to(dtype)))


@FAULTS.of("dtype-changed", steps=30, onset=15, subject="centre")
def exported_in_place(healthy: bool) -> Run:
    """An export after step 15 calls `half()`, which casts the model itself, and only the layer is cast back."""
    model = _Centred()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = _loss(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i == 15:
            (copy.deepcopy(model) if healthy else model).half()
            model.layer.float()
        return loss.item()

    return Run(model, optimizer, step)
