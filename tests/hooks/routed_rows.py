"""
Rows of the hook matrix: mixtures of experts whose routers keep no counter, and get a hook where nothing compiles them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from tests.hooks.net import WIDTH, Net, adamw, batch, compiled, usual
from tests.hooks.running import Trainer

EXPERTS = 4


class Router(nn.Module):
    """As transformers has them."""

    def __init__(self) -> None:
        super().__init__()
        self.top_k = 2
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = functional.linear(hidden, self.weight)
        weights, chosen = scores.softmax(-1).topk(self.top_k, -1)
        return scores, weights, chosen


class Mixture(nn.Module):
    """In a block's place; what it takes of the experts is ordered by how well each did."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Router()
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        _, weights, chosen = self.gate(hidden)
        mixed = torch.einsum("td,tkde->tke", hidden, self.experts[chosen])
        _, order = mixed.abs().sum(-1).topk(2, -1)
        out: torch.Tensor = hidden + (mixed * weights.gather(-1, order)[..., None]).sum(1)
        return out


class Routed(Net):
    """The matrix's net with mixtures for blocks; `how`: what calls each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Mixture(), Mixture()])
        self.how = checkpoint

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = self.how(block, hidden, use_reentrant=False)
        out: torch.Tensor = self.head(hidden)
        return out


class Plain(Routed):
    """Without checkpoints."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        out: torch.Tensor = self.head(hidden)
        return out


def mixture() -> Trainer:
    """Hooks on both routers."""
    model = Plain()
    return usual(model, adamw(model))


def mixture_checkpointed() -> Trainer:
    """Each is called twice."""
    model = Routed()
    return usual(model, adamw(model))


def mixture_checkpointed_by_operator() -> Trainer:
    """Results of every operator are kept, and handed out again in the order in which they were asked for."""
    model = Routed()
    keep = partial(create_selective_checkpoint_contexts, _keep_everything)
    model.how = partial(checkpoint, context_fn=keep)
    return usual(model, adamw(model))


def _keep_everything(_context: object, *_args: object, **_kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE


def mixture_compiled() -> Trainer:
    """No hook."""
    model = compiled(Plain())
    return usual(model, adamw(model))


def mixture_in_a_compiled_function() -> Trainer:
    """Hooks that Dynamo traces to nothing."""
    model = Plain()
    optimizer = adamw(model)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def forward(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(ids), labels)

    def train(_i: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = forward(*batch())
        loss.backward()
        optimizer.step()
        return loss

    return Trainer(model, [optimizer], train)
