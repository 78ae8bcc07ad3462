"""
Short trainings in which the model itself changes on the way, as some rightly do: parts are added, swapped, merged, moved.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.incidents.healthy_runs.run import (
    HealthyRuns,
    Run,
    blobs,
    generator,
    perceptron,
    update,
)

RUNS = HealthyRuns()


def _loss(model: nn.Module, i: int, noise: float = 1.0) -> torch.Tensor:
    values, labels = blobs(i, noise=noise)
    return F.cross_entropy(model(values), labels)


@RUNS.of(200)
def layer_added_midway() -> Run:
    """A block that begins as nothing is put in at step 100, and joins the optimizer as a group of its own."""

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry = nn.Linear(16, 32)
            self.blocks = nn.ModuleList([perceptron(32, 32, 32)])
            self.head = nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.entry(x)
            for block in self.blocks:
                x = x + block(x)
            out: torch.Tensor = self.head(x)
            return out

    model = Growing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        if i == 100:
            block = perceptron(32, 32, 32)
            nn.init.zeros_(list(block.parameters())[-2])
            model.blocks.append(block)
            optimizer.add_param_group({"params": list(block.parameters())})
        return update(optimizer, _loss(model, i))

    return Run(model, optimizer, step)


@RUNS.of(200)
def vocabulary_made_larger() -> Run:
    """At step 100 new words come: a longer embedding with the old rows in it, and a new optimizer for everything."""
    embedding = nn.Embedding(64, 16)
    model = nn.ModuleDict({"embedding": embedding, "layers": perceptron(16, 32, 4)})
    optimizers: list[Any] = [torch.optim.Adam(model.parameters(), lr=5e-3)]

    def step(i: int) -> float:
        if i == 100:
            longer = nn.Embedding(80, 16)
            with torch.no_grad():
                longer.weight[:64] = embedding.weight
            model["embedding"] = longer
            optimizers[0] = torch.optim.Adam(model.parameters(), lr=5e-3)
        words = 64 if i < 100 else 80
        ids = torch.randint(0, words, (64,), generator=generator(12, i))
        loss = F.cross_entropy(model["layers"](model["embedding"](ids)), ids % 4)
        return update(optimizers[0], loss)

    return Run(model, optimizers[0], step)


@RUNS.of(200)
def state_assigned_back() -> Run:
    """A loss spike is undone in the process: `load_state_dict(assign=True)` of a copy, and a new optimizer."""
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    optimizers: list[Any] = [torch.optim.AdamW(model.parameters(), lr=5e-3)]
    kept: dict[str, Any] = {}

    def step(i: int) -> float:
        if i == 80:
            kept.update(copy.deepcopy(model.state_dict()))
        if i == 120:
            model.load_state_dict(copy.deepcopy(kept), assign=True)
            optimizers[0] = torch.optim.AdamW(model.parameters(), lr=2e-3)
        return update(optimizers[0], _loss(model, i))

    return Run(model, optimizers[0], step)


@RUNS.of(160)
def shared_encoder_assigned_back() -> Run:
    """Actor and critic have one encoder, which is replaced under both names at once, as it was before."""

    class Part(nn.Module):
        def __init__(self, encoder: nn.Module, size: int) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = nn.Linear(32, size)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.encoder(x))
            return out

    encoder = perceptron(16, 32, 32)
    model = nn.ModuleDict({"actor": Part(encoder, 4), "critic": Part(encoder, 1)})
    optimizers: list[Any] = [torch.optim.AdamW(model.parameters(), lr=3e-3)]

    def step(i: int) -> float:
        if i == 100:
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
            optimizers[0] = torch.optim.AdamW(model.parameters(), lr=3e-3)
        values, labels = blobs(i)
        surprise = F.cross_entropy(model["actor"](values), labels, reduction="none")
        guess = model["critic"](values)[:, 0]
        return update(optimizers[0], surprise.mean() + F.mse_loss(guess, surprise.detach()))

    return Run(model, optimizers[0], step)


@RUNS.of(200)
def head_drawn_anew() -> Run:
    """The last layer is initialised again at step 100 in place, for labels that mean something else from then on."""
    trunk, head = perceptron(16, 32, 32), nn.Linear(32, 4)
    model = nn.Sequential(trunk, nn.ReLU(), head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(i: int) -> float:
        if i == 100:
            head.reset_parameters()
            for parameter in head.parameters():
                optimizer.state.pop(parameter, None)
        values, labels = blobs(i)
        return update(optimizer, F.cross_entropy(model(values), (labels + i // 100) % 4))

    return Run(model, optimizer, step)


@RUNS.of(160)
def evaluated_in_half_precision() -> Run:
    """Every 40 steps a copy in bfloat16 is evaluated and saved for serving; the model itself stays as it is."""
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    path = Path(tempfile.mkdtemp(prefix="healthy-")) / "serving.pt"

    def step(i: int) -> float:
        loss = update(optimizer, _loss(model, i))
        if i % 40 == 39:
            served = copy.deepcopy(model).eval().to(torch.bfloat16)
            with torch.no_grad():
                served(blobs(-1)[0].to(torch.bfloat16))
            torch.save(served.state_dict(), path)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(160)
def activations_computed_again() -> Run:
    """Activation checkpointing, dropout inside, and a weight that two modules share."""
    shared = nn.Linear(32, 32)
    inner = nn.Sequential(shared, nn.ReLU(), nn.Dropout(0.2), shared)
    entry, head = nn.Linear(16, 32), nn.Linear(32, 4)
    model = nn.ModuleDict({"entry": entry, "inner": inner, "head": head})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        hidden = checkpoint(inner, entry(values), use_reentrant=False)
        return update(optimizer, F.cross_entropy(head(hidden), labels))

    return Run(model, optimizer, step)


@RUNS.of(200)
def slow_teacher_in_the_model() -> Run:
    """A student learns from a frozen teacher inside the same model, whose weights follow slowly; both keep statistics."""

    def net() -> nn.Sequential:
        return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    student = net()
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        scores = student(values)
        with torch.no_grad():
            aim = teacher(values + 0.1).softmax(-1)
        loss = F.cross_entropy(scores, labels) + F.cross_entropy(scores, aim)
        value = update(optimizer, loss)
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 0.01)
        return value

    return Run(model, optimizer, step)


@RUNS.of(200)
def contrastive_queue() -> Run:
    """A queue of past keys in a persistent buffer, written a few rows at a time, and a pointer into it."""
    encoder = perceptron(16, 32, 8)
    model = nn.ModuleDict({"query": encoder, "key": copy.deepcopy(encoder).requires_grad_(False)})
    model.register_buffer("queue", F.normalize(torch.randn(256, 8), dim=1))
    model.register_buffer("place", torch.zeros(1, dtype=torch.long))
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)

    def step(i: int) -> float:
        values = blobs(i, size=16)[0]
        query = F.normalize(encoder(values), dim=1)
        with torch.no_grad():
            for old, new in zip(model["key"].parameters(), encoder.parameters(), strict=True):
                old.lerp_(new, 0.05)
            key = F.normalize(model["key"](values + 0.1), dim=1)
        queue, place = model.get_buffer("queue"), model.get_buffer("place")
        scores = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.clone().T], 1) / 0.2
        loss = update(optimizer, F.cross_entropy(scores, torch.zeros(16, dtype=torch.long)))
        with torch.no_grad():
            start = int(place)
            queue[start : start + 16] = key
            place.fill_((start + 16) % 256)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(240)
def adapters_merged_now_and_then() -> Run:
    """ReLoRA: every 80 steps what the adapter learned is added to the frozen weight, and the adapter begins anew."""
    base = nn.Linear(16, 32).requires_grad_(False)
    lora_a, lora_b = nn.Linear(16, 4, bias=False), nn.Linear(4, 32, bias=False)
    head = nn.Linear(32, 4)
    nn.init.zeros_(lora_b.weight)
    model = nn.ModuleDict({"base": base, "down": lora_a, "up": lora_b, "head": head})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers: list[Any] = [torch.optim.AdamW(trained, lr=5e-3)]

    def step(i: int) -> float:
        if i and i % 80 == 0:
            with torch.no_grad():
                base.weight.add_(lora_b.weight @ lora_a.weight)
            lora_a.reset_parameters()
            nn.init.zeros_(lora_b.weight)
            optimizers[0] = torch.optim.AdamW(trained, lr=5e-3)
        values, labels = blobs(i)
        loss = F.cross_entropy(head((base(values) + lora_b(lora_a(values))).relu()), labels)
        return update(optimizers[0], loss)

    return Run(model, optimizers[0], step)


@RUNS.of(160)
def compiled_model() -> Run:
    """`torch.compile` around the model, evaluation in between, and saves under the compiled names."""
    inner = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    model: Any = torch.compile(inner, backend="eager")
    optimizer = torch.optim.AdamW(inner.parameters(), lr=5e-3)
    path = Path(tempfile.mkdtemp(prefix="healthy-")) / "model.pt"

    def step(i: int) -> float:
        loss = update(optimizer, _loss(model, i))
        if i % 40 == 39:
            model.eval()
            with torch.no_grad():
                model(blobs(-1)[0])
            model.train()
            torch.save(model.state_dict(), path)
        return loss

    return Run(model, optimizer, step)
