"""
Rows of the hook matrix: ways to step.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, AdamW

from tests.hooks.nested_optimizers import Lookahead, Sam, ScheduleFreeSgd
from tests.hooks.net import Net, adamw, batch, compiled, loss_of, usual
from tests.hooks.running import Trainer


def accumulation() -> Trainer:
    """Three microbatches a step."""
    model = Net()
    optimizer = adamw(model)

    def train(_i: int) -> torch.Tensor:
        optimizer.zero_grad()
        losses = []
        for _ in range(3):
            loss = loss_of(model) / 3
            loss.backward()
            losses.append(loss)
        optimizer.step()
        return torch.stack(losses).sum()

    return Trainer(model, [optimizer], train)


def autocast() -> Trainer:
    """bf16 in the forward pass."""
    model = Net()
    optimizer = adamw(model)

    def train(_i: int) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
        return loss

    return Trainer(model, [optimizer], train)


def _scaled(fused: bool) -> Trainer:
    model = Net()
    optimizer = adamw(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def train(i: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        scaler.scale(loss * (float("inf") if i in (1, 4) else 1.0)).backward()
        scaler.unscale_(optimizer) if i % 2 else None
        scaler.step(optimizer)
        scaler.update()
        return loss

    return Trainer(model, [optimizer], train)


def scaler_that_skips() -> Trainer:
    """Two of six steps are skipped: they never reach the optimizer."""
    return _scaled(fused=False)


def scaler_with_fused() -> Trainer:
    """The optimizer is handed the scale, and skips by itself."""
    return _scaled(fused=True)


def two_optimizers() -> Trainer:
    """Encoder and head have one each, both step in each iteration."""
    model = Net()
    head = SGD(model.head.parameters(), lr=0.05)
    rest = AdamW([*model.embedding.parameters(), *model.blocks.parameters()], lr=1e-2)

    def train(_i: int) -> torch.Tensor:
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        rest.step()
        head.step()
        return loss

    return Trainer(model, [rest, head], train)


def alternating_optimizers() -> Trainer:
    """They take turns: each round of both is one step."""
    model = Net()
    optimizers = [
        SGD(model.head.parameters(), lr=0.05),
        AdamW([*model.embedding.parameters(), *model.blocks.parameters()], lr=1e-2),
    ]

    def train(i: int) -> torch.Tensor:
        model.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizers[i % 2].step()
        return loss

    return Trainer(model, optimizers, train)


def lookahead() -> Trainer:
    """The wrapper's step holds the inner one's."""
    model = Net()
    return usual(model, Lookahead(adamw(model)))


def _sam(swaps_data: bool, in_halves: bool) -> Trainer:
    model = Net()
    optimizer = Sam(model.parameters(), lr=0.05, momentum=0.9, swaps_data=swaps_data)

    def train(_i: int) -> torch.Tensor:
        ids, labels = batch()

        def closure() -> torch.Tensor:
            found: torch.Tensor = functional.cross_entropy(model(ids), labels)
            found.backward()
            return found

        loss = closure()
        if in_halves:
            optimizer.first_step()
            optimizer.zero_grad()
            closure()
            optimizer.second_step()
        else:
            optimizer.step(closure)
        optimizer.zero_grad()
        return loss

    return Trainer(model, [optimizer], train)


def sam() -> Trainer:
    """One call with a closure: the wrapper's step holds the base optimizer's."""
    return _sam(swaps_data=False, in_halves=False)


def sam_in_halves() -> Trainer:
    """first_step and second_step: only the base optimizer ever steps; and weights are put back by `.data`."""
    return _sam(swaps_data=True, in_halves=True)


def schedule_free() -> Trainer:
    """Evaluated, in the average, after every other step."""
    model = Net()
    optimizer = ScheduleFreeSgd(model.parameters())

    def train(i: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        if i % 2:
            optimizer.eval()
            with torch.no_grad():
                loss_of(model)
            optimizer.train()
        return loss

    return Trainer(model, [optimizer], train)


def lbfgs() -> Trainer:
    """Several forward and backward passes in each step."""
    model = Net().eval()  # no dropout: a line search wants a function
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn="strong_wolfe")

    def train(_i: int) -> torch.Tensor:
        ids, labels = batch()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            found: torch.Tensor = functional.cross_entropy(model(ids), labels)
            found.backward()
            return found

        return cast(torch.Tensor, optimizer.step(closure))

    return Trainer(model, [optimizer], train)


def _in_backward(model: nn.Module, forward: nn.Module) -> Trainer:
    optimizers = {parameter: SGD([parameter], lr=0.05) for parameter in model.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[cast(nn.Parameter, parameter)].step()
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)

    def train(_i: int) -> torch.Tensor:
        loss = loss_of(forward)
        loss.backward()
        return loss

    return Trainer(model, list(optimizers.values()), train)


def optimizer_in_backward() -> Trainer:
    """One optimizer a parameter, each stepping as soon as its gradient is there, which is freed then."""
    model = Net()
    return _in_backward(model, model)


def optimizer_in_backward_compiled() -> Trainer:
    """The same with a compiled model."""
    model = Net()
    return _in_backward(model, compiled(model))


def foreach_optimizer() -> Trainer:
    """All parameters in a few calls."""
    model = Net()
    return usual(model, adamw(model, foreach=True))


def single_tensor_optimizer() -> Trainer:
    """One parameter after the other."""
    model = Net()
    return usual(model, adamw(model, foreach=False))


def fused_optimizer() -> Trainer:
    """One kernel."""
    model = Net()
    return usual(model, adamw(model, fused=True))


def fused_sgd() -> Trainer:
    """One kernel, with momentum."""
    model = Net()
    return usual(model, SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True))
