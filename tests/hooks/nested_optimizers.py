"""
Optimizers around other optimizers, and one whose parameters differ between training and evaluation: small real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

Closure = Callable[[], torch.Tensor]


class Lookahead(Optimizer):
    """
    Every `k` steps of the inner optimizer the weights go half-way back to the slow ones.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019).
    """

    def __init__(self, optimizer: Optimizer, k: int = 3, alpha: float = 0.5) -> None:
        self.optimizer, self.k, self.alpha, self.taken = optimizer, k, alpha, 0
        super().__init__([p for g in optimizer.param_groups for p in g["params"]], {})
        self.param_groups = optimizer.param_groups
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["slow"] = parameter.detach().clone()

    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.taken += 1
        if self.taken % self.k == 0:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        slow = self.state[parameter]["slow"]
                        slow.lerp_(parameter, self.alpha)
                        parameter.copy_(slow)
        return loss


class Sam(Optimizer):
    """
    Two backward passes a step: one where the weights are, one up the slope; the inner optimizer uses the second.

    Foret et al., "Sharpness-Aware Minimization" (2020). `swaps_data`: the old weights are put back by `p.data = old`, as
    widespread implementations do.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rho: float = 0.05,
        swaps_data: bool,
        **given: Any,
    ) -> None:
        super().__init__(parameters, {"rho": rho, "lr": 0.05, **given})
        self.swaps_data = swaps_data
        self.base_optimizer = SGD(self.param_groups, **given)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        """Up the slope."""
        norm = torch.stack([p.grad.norm() for p in self._with_gradient()]).norm()
        for parameter in self._with_gradient():
            self.state[parameter]["old"] = parameter.data.clone()
            parameter.add_(parameter.grad, alpha=0.05 / (float(norm) + 1e-12))

    @torch.no_grad()
    def second_step(self) -> None:
        """Back, and down with the gradient from there."""
        for parameter in self._with_gradient():
            if self.swaps_data:
                parameter.data = self.state[parameter]["old"]
            else:
                parameter.copy_(self.state[parameter]["old"])
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        self.first_step()
        self.zero_grad()
        closure()
        self.second_step()

    def _with_gradient(self) -> list[Any]:
        every = [p for group in self.param_groups for p in group["params"]]
        return [parameter for parameter in every if parameter.grad is not None]


class ScheduleFreeSgd(Optimizer):
    """
    The model holds `y` while it trains and `x`, the average, while it is evaluated.

    Defazio et al., "The Road Less Scheduled" (2024).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 0.05, beta: float = 0.9
    ) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "k": 0, "train_mode": True})
        for parameter in self._parameters():
            self.state[parameter]["z"] = parameter.detach().clone()

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def eval(self) -> None:
        """The weights become the average."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.lerp_(self.state[parameter]["z"], 1 - 1 / group["beta"])
            group["train_mode"] = False

    @torch.no_grad()
    def train(self) -> None:
        """The weights become what is trained."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.lerp_(self.state[parameter]["z"], 1 - group["beta"])
            group["train_mode"] = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            assert group["train_mode"], "step() in evaluation mode"
            lr, beta, weight = group["lr"], group["beta"], 1 / (group["k"] + 1)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                z = self.state[parameter]["z"]
                parameter.lerp_(z, weight)
                parameter.add_(parameter.grad, alpha=lr * (beta * (1 - weight) - 1))
                z.sub_(parameter.grad, alpha=lr)
            group["k"] += 1
