"""
Short trainings whose procedure is unusual and right: restores, averages, skipped steps, taking turns, starting again.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ReduceLROnPlateau,
)
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.incidents.healthy_runs.run import HealthyRuns, Run, blobs, perceptron, update

RUNS = HealthyRuns()


def _normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )  # fmt: skip


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="healthy-"))


@RUNS.of(160)
def best_weights_restored() -> Run:
    """Early stopping: the best weights are kept in memory, put back at step 120, and tuned on with a smaller step."""
    model = _normalised()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    best: dict[str, Any] = {"loss": float("inf")}

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        if i % 10 == 9:
            model.eval()
            with torch.no_grad():
                held_out = F.cross_entropy(model(blobs(-1)[0]), blobs(-1)[1]).item()
            model.train()
            if held_out < best["loss"] and i < 80:
                best.update(loss=held_out, state=copy.deepcopy(model.state_dict()))
        if i == 120:
            model.load_state_dict(best["state"])
            optimizer.param_groups[0]["lr"] = 5e-4
        return loss

    return Run(model, optimizer, step)


@RUNS.of(160)
def averaged_weights_saved() -> Run:
    """Saves hold an exponential average of the weights under the model's own names; evaluation swaps it in and out."""
    model = _normalised()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    path = _folder() / "average.pt"

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        average.update_parameters(model)
        if i % 40 == 39:
            own = copy.deepcopy(model.state_dict())
            model.load_state_dict(average.module.state_dict())
            model.eval()
            with torch.no_grad():
                model(blobs(-1)[0])
            torch.save({"model": average.module.state_dict(), "step": i}, path)
            model.train()
            model.load_state_dict(own)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(200)
def scaled_loss_and_accumulation() -> Run:
    """A gradient scaler on the CPU that begins far too high and skips a score of steps; four parts a step; clipping."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36, growth_interval=60)

    def step(i: int) -> float:
        loss = torch.zeros(())
        for part in range(4):
            values, labels = blobs(4 * i + part)
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(model(values), labels) / 4
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return 4 * loss.item()

    return Run(model, optimizer, step)


@RUNS.of(240)
def layers_unfrozen_one_by_one() -> Run:
    """The head first, then a deeper layer every 60 steps, each as a new group of the optimizer."""
    model = _normalised()
    layers = [module for module in model if list(module.parameters())]
    model.requires_grad_(False)
    layers[-1].requires_grad_(True)
    optimizer = torch.optim.AdamW(layers[-1].parameters(), lr=5e-3)

    def step(i: int) -> float:
        if i and i % 60 == 0:
            layer = layers[-1 - i // 60]
            layer.requires_grad_(True)
            optimizer.add_param_group({"params": list(layer.parameters()), "lr": 5e-3 / (i // 60)})
        return update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))

    return Run(model, optimizer, step)


@RUNS.of(240)
def learning_rate_dropped_on_a_plateau() -> Run:
    """By ten each time, down to 1e-8, where float32 loses most updates by right."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = ReduceLROnPlateau(optimizer, patience=4, min_lr=1e-8)

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        schedule.step(loss)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(240)
def cyclic_learning_rate() -> Run:
    """Up and down between 1e-4 and 0.1 every 30 steps."""
    model = _normalised()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = CyclicLR(optimizer, 1e-4, 0.1, step_size_up=15)

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        schedule.step()
        return loss

    return Run(model, optimizer, step)


@RUNS.of(160)
def cosine_wave() -> Run:
    """A cosine down to a twentieth and up again, twice, which is meant."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = CosineAnnealingLR(optimizer, 40, eta_min=5e-4)

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        schedule.step()
        return loss

    return Run(model, optimizer, step)


@RUNS.of(240)
def warm_restarts() -> Run:
    """A cosine down to 0 that begins again, three times."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = CosineAnnealingWarmRestarts(optimizer, 60, eta_min=0)

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        schedule.step()
        return loss

    return Run(model, optimizer, step)


@RUNS.of(200)
def stochastic_weight_averaging() -> Run:
    """Averaging from step 100, the running statistics made anew for the average, and the average saved at the end."""
    model = _normalised()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = AveragedModel(model)
    schedule = SWALR(optimizer, swa_lr=0.05, anneal_epochs=20)
    path = _folder() / "average.pt"

    def step(i: int) -> float:
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        if i >= 100:
            average.update_parameters(model)
            schedule.step()
        if i == 199:
            update_bn([blobs(j)[0] for j in range(10)], average)
            torch.save(average.state_dict(), path)
        return loss

    return Run(model, optimizer, step)


@RUNS.of(200)
def resume_from_an_older_checkpoint() -> Run:
    """Saved every 25 steps; at step 130 the job starts again from step 50's file, as after a loss spike."""
    folder = _folder()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = _normalised()
        return model, torch.optim.AdamW(model.parameters(), lr=5e-3)

    parts: list[Any] = list(make())

    def step(i: int) -> float:
        if i == 130:
            parts[:] = make()
            state = torch.load(folder / "49.pt", weights_only=True)
            parts[0].load_state_dict(state["model"])
            parts[1].load_state_dict(state["optimizer"])
            run.renew(parts[0], parts[1])
        model, optimizer = parts
        loss = update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        if i % 25 == 24:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, folder / f"{i}.pt")
        return loss

    run = Run(parts[0], parts[1], step)
    return run


@RUNS.of(160)
def only_the_head_is_trained() -> Run:
    """A frozen trunk in eval mode, BatchNorm included, under a new head; the optimizer was given everything."""
    trunk, head = _normalised()[:5], nn.Linear(32, 4)
    model = nn.Sequential(trunk, head)
    trunk.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def step(i: int) -> float:
        model.train()
        trunk.eval()
        return update(optimizer, F.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))

    return Run(model, optimizer, step)


@RUNS.of(240)
def optimizers_in_turn() -> Run:
    """Two halves of a model with an optimizer each, which take turns of 40 steps."""
    model = perceptron(16, 32, 32, 4)
    parameters = list(model.parameters())
    optimizers = [
        torch.optim.Adam(parameters[:2], lr=5e-3),
        torch.optim.SGD(parameters[2:], lr=0.1, momentum=0.9),
    ]

    def step(i: int) -> float:
        model.zero_grad()
        loss = F.cross_entropy(model(blobs(i)[0]), blobs(i)[1])
        loss.backward()
        optimizers[i // 40 % 2].step()
        return loss.item()

    return Run(model, optimizers[0], step, extra={"optimizers": optimizers})


@RUNS.of(120)
def full_batch_with_many_evaluations() -> Run:
    """The same batch at every step: LBFGS on all the data there is, a score of backward passes a step."""
    model = perceptron(16, 8, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=5)
    values, labels = blobs(0, size=128, noise=3.0)

    def closure() -> float:
        optimizer.zero_grad()
        weights = nn.utils.parameters_to_vector(model.parameters())
        loss = F.cross_entropy(model(values), labels) + 1e-2 * weights.square().sum()
        loss.backward()
        return loss.item()

    return Run(model, optimizer, lambda _: optimizer.step(closure))


@RUNS.of(160)
def sharpness_aware_steps() -> Run:
    """Weights are moved uphill, the gradient is taken there, and they are put back as other storage before the step."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = F.cross_entropy(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        old = [parameter.data.clone() for parameter in model.parameters()]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(0.05 * parameter.grad / (norm + 1e-12))
        optimizer.zero_grad()
        F.cross_entropy(model(values), labels).backward()
        for parameter, before in zip(model.parameters(), old, strict=True):
            parameter.data = before
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)
