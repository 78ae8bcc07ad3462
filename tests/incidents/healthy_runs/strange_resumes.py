"""
Resumes that lose something on purpose, or only seem to lose it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from tests.incidents.healthy_runs.resuming import Parts, resumed
from tests.incidents.healthy_runs.run import HealthyRuns, Run, perceptron, warm_up_and_cosine

RUNS = HealthyRuns()


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)


def _plain(attempt: int) -> Parts:
    model = perceptron(16, 32, 32, 4)
    return {"model": model, "optimizer": _adam(model)}


class _Caching(nn.Module):
    """Buffers that are nobody's state: a table made at construction, one made when needed, scratch, a metric."""

    table: torch.Tensor
    grown: torch.Tensor
    scratch: torch.Tensor
    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(16, 32, 4)
        self.register_buffer("table", torch.sin(torch.arange(16.0)), persistent=False)
        self.register_buffer("grown", torch.zeros(0), persistent=False)
        self.register_buffer("scratch", torch.zeros(16), persistent=False)
        self.register_buffer("total", torch.zeros(8), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not len(self.grown):
            self.grown = torch.cos(torch.arange(16.0))
        self.scratch.copy_(values[0])
        output = torch.as_tensor(self.body(values + 0.1 * self.table + 0.1 * self.grown))
        self.total += len(values)
        return output


@RUNS.of(steps=70)
def caches_and_metrics() -> Run:
    """What is made anew, overwritten or added up begins again with each process."""

    def make(attempt: int) -> Parts:
        model = _Caching()
        return {"model": model, "optimizer": _adam(model)}

    return resumed(make)


@RUNS.of(steps=70)
def rolled_back() -> Run:
    """The restart goes on from a checkpoint of twenty steps ago: weights, statistics, moments and schedule."""

    def make(attempt: int) -> Parts:
        model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = _adam(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_cosine(10, 80))
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    return resumed(make, kept=20)


@RUNS.of(steps=70)
def rolled_back_to_the_beginning() -> Run:
    """The only checkpoint is from the third step."""
    return resumed(_plain, kept=3)


@RUNS.of(steps=70)
def second_phase_with_a_new_head() -> Run:
    """Weights are kept, without an optimizer; head, optimizer and schedule are new."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 32, 32, 4)
        optimizer = _adam(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_cosine(10, 60))
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def load(parts: Parts, state: Parts) -> None:
        body = {name: each for name, each in state["model"].items() if name[0] != "4"}
        parts["model"].load_state_dict(body, strict=False)

    return resumed(make, save=lambda parts: {"model": parts["model"].state_dict()}, load=load)


@RUNS.of(steps=90)
def restart_where_a_cycle_ends() -> Run:
    """Cosine with warm restarts: the learning rate is back at its first value, as it was before."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 32, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        cycles = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=20)
        return {"model": model, "optimizer": optimizer, "scheduler": cycles}

    return resumed(make, at=(40, 60))


@RUNS.of(steps=90)
def often_resumed() -> Run:
    """Preempted again and again; all is saved each time."""

    def make(attempt: int) -> Parts:
        model = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 32), nn.Linear(32, 4)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
        return {"model": model, "optimizer": optimizer}

    return resumed(make, at=(10, 15, 40, 70))


@RUNS.of(steps=70)
def teacher_copied_from_the_student() -> Run:
    """The averaged teacher is not saved: it begins again as a copy of the student."""

    def make(attempt: int) -> Parts:
        model = nn.Module()
        model.student = perceptron(16, 32, 4)
        model.teacher = copy.deepcopy(model.student).requires_grad_(False)
        model.forward = model.student.forward
        optimizer = _adam(model.student)
        optimizer.register_step_post_hook(lambda *_: _average(model))
        return {"model": model, "optimizer": optimizer}

    def load(parts: Parts, state: Parts) -> None:
        model = parts["model"]
        model.student.load_state_dict(state["model"])
        model.teacher.load_state_dict(state["model"])
        parts["optimizer"].load_state_dict(state["optimizer"])

    def save(parts: Parts) -> Parts:
        student = parts["model"].student.state_dict()
        return {"model": student, "optimizer": parts["optimizer"].state_dict()}

    return resumed(make, save=save, load=load)


@torch.no_grad()
def _average(model: nn.Module) -> None:
    pairs = zip(model.teacher.parameters(), model.student.parameters(), strict=True)  # type: ignore[union-attr]
    for average, live in pairs:
        average.lerp_(live, 0.05)


@RUNS.of(steps=70)
def parameters_sorted_both_times() -> Run:
    """Groups in an order of their own, the same at each start."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 16, 16, 16, 4)
        vectors = [p for p in model.parameters() if p.ndim < 2]
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        groups: list[Parts] = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices[::-1]}]
        return {"model": model, "optimizer": torch.optim.Adam(groups, lr=3e-3, betas=(0.5, 0.9))}

    return resumed(make)
