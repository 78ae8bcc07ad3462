"""
Small mixtures of experts with a fault of routing, and with the twin that has none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()
WIDTH, EXPERTS = 16, 8


class Experts(nn.Module):
    """
    Two of eight experts a token, from stacked weights. `sees` is what the router looks at: half of what all tokens
    share, so that a router which nobody balances prefers the same experts for all.
    """

    def __init__(self, *, bias: bool = False, masked: int = 0, top_k: int = 2) -> None:
        super().__init__()
        self.top_k, self.masked = top_k, masked
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.w1 = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)
        self.w2 = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)
        self.register_buffer("tokens_per_expert", torch.zeros(EXPERTS), persistent=False)
        if bias:
            self.register_buffer("expert_bias", torch.zeros(EXPERTS))
        self.balancing_loss = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.gate(x).softmax(-1)
        ranked = scores.detach() + getattr(self, "expert_bias", 0.0)
        if self.masked:
            ranked[:, -self.masked :] = -1.0
        chosen = functional.one_hot(ranked.topk(self.top_k, -1).indices, EXPERTS).sum(1)
        self.get_buffer("tokens_per_expert").add_(chosen.sum(0))
        self.balancing_loss = EXPERTS * (chosen.float().mean(0) * scores.mean(0)).sum()
        hidden = torch.einsum("td,edh->teh", x, self.w1).relu()
        every = torch.einsum("teh,ehd->ted", hidden, self.w2)
        return x + torch.einsum("te,ted->td", scores * chosen, every)


def _run(experts: Experts, after: Callable[[], None], aux: float = 0.0, early: bool = False) -> Run:
    """`after`: done when the step is; the counter is zeroed then, or before it (`early`)."""
    model = nn.Sequential(nn.Linear(16, WIDTH), experts, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i, size=256)
        loss = functional.cross_entropy(model(values), labels)
        optimizer.zero_grad()
        (loss + aux * experts.balancing_loss).backward()
        if early:
            after()
            experts.get_buffer("tokens_per_expert").zero_()
        optimizer.step()
        if not early:
            after()
            experts.get_buffer("tokens_per_expert").zero_()
        return loss.item()

    return Run(model, optimizer, step)


def _balance(experts: Experts, rate: float) -> Callable[[], None]:
    def after() -> None:
        tokens = experts.get_buffer("tokens_per_expert")
        experts.get_buffer("expert_bias").add_(rate * (tokens.mean() - tokens).sign())

    return after


@FAULTS.of("expert-bias-drift", steps=60, onset=0, subject="1.expert_bias")
def bias_moved_the_wrong_way(healthy: bool) -> Run:
    """Who has most gets more."""
    experts = Experts(bias=True)
    return _run(experts, _balance(experts, 5e-3 if healthy else -5e-3))


@FAULTS.of("expert-bias-drift", steps=100, onset=0, subject="1.expert_bias")
def bias_moved_the_wrong_way_with_early_counts(healthy: bool) -> Run:
    """The counter is zeroed before the step: what is left are the gradients of experts that get no token."""
    experts = Experts(bias=True)
    return _run(experts, _balance(experts, 1e-2 if healthy else -1e-2), early=True)


@FAULTS.of("expert-dead", steps=50, onset=0, subject="1.")
def expert_that_is_never_chosen(healthy: bool) -> Run:
    """An index that is one too small leaves out the last expert."""
    return _run(Experts(masked=0 if healthy else 1), lambda: None, aux=0.1)


@FAULTS.of("router-collapse", steps=60, onset=0, subject="1.tokens_per_expert")
def balancing_loss_without_effect(healthy: bool) -> Run:
    """All tokens share a direction that two experts like; only the balancing loss can change that."""
    experts = Experts()
    run = _run(experts, lambda: None, aux=1.0 if healthy else 0.0)
    with torch.no_grad():
        first = run.model.get_submodule("0")
        assert isinstance(first, nn.Linear)
        first.bias.fill_(1.0)
        experts.gate.weight[:2] += 0.5
    return run
