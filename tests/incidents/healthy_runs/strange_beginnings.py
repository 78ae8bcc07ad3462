"""
Healthy runs whose parameters begin oddly: at zero, all alike, far too wide or far too small, and by design.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import HealthyRuns, Run, blobs, perceptron, update

RUNS = HealthyRuns()


def _classifier(model: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizer, functional.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


class _Adaptive(nn.Module):
    """A block as in diffusion transformers: its modulation begins at zero, its branch at the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.inside, self.outside = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(1e-5 * torch.ones(width))
        self.rezero = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(functional.silu(x)).chunk(3, -1)
        branch = self.outside(functional.gelu(self.inside(self.norm(x) * (1 + scale) + shift)))
        extra: torch.Tensor = x + gate * branch + self.scale * branch + self.rezero * branch
        return extra


@RUNS.of(120)
def zeros_by_design() -> Run:
    """Modulations, heads, gates and a control branch that begin at zero; gating biases at -10."""
    head = nn.Linear(32, 4)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, -10.0)
    model = nn.Sequential(nn.Linear(16, 32), _Adaptive(32), _Adaptive(32), head)
    return _classifier(model, torch.optim.AdamW(model.parameters(), lr=3e-3))


class _Queries(nn.Module):
    """Learned queries of one constant, told apart by fixed positions; a token type that is never used; wide features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Parameter(16.0 * torch.randn(1, 16))
        self.place = nn.Embedding(16, 32)
        self.kind = nn.Parameter(torch.zeros(2, 32))
        self.queries = nn.Parameter(torch.full((6, 32), 0.5))
        self.codes = nn.Parameter(torch.randn(6, 32), requires_grad=False)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(6 * 32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        waves = torch.sin(x * self.features)
        tokens = waves.unsqueeze(-1) * self.place.weight + self.kind[0]
        asked = (self.queries + self.codes).expand(len(x), -1, -1)
        answer: torch.Tensor = self.head(self.attention(asked, tokens, tokens)[0].flatten(1))
        return answer


@RUNS.of(120)
def constant_queries_and_wide_features() -> Run:
    """Rows alike that part at once, a row that never moves, and Fourier features of width 16."""
    model = _Queries()
    return _classifier(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


class _Scaled(nn.Linear):
    """A layer with an equalised learning rate: a standard normal, scaled where it is used."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after)
        nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight * self.in_features**-0.5, self.bias)


@RUNS.of(120)
def scaled_where_it_is_used() -> Run:
    """Standard normals beside ordinary weights; the last layer drawn at 1e-3, another at 1e-10."""
    last, tiny = nn.Linear(64, 4), nn.Linear(64, 64)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.normal_(tiny.weight, std=1e-10)
    model = nn.Sequential(_Scaled(16, 64), nn.GELU(), _Scaled(64, 64), nn.GELU(), tiny, last)
    return _classifier(model, torch.optim.Adam(model.parameters(), lr=1e-3))


@RUNS.of(120)
def experts_copied_from_one() -> Run:
    """Sparse upcycling: all experts are the same at first, and a router parts them."""
    router, expert = nn.Linear(16, 4), nn.Linear(16, 32)
    stacked = nn.Parameter(expert.weight.detach().clone().expand(4, -1, -1).contiguous())
    model = nn.ModuleDict({"router": router, "head": nn.Linear(32, 4)})
    model.register_parameter("experts", stacked)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        weights = router(values).softmax(-1)
        best = weights.argmax(-1)
        hidden = torch.einsum("bi,boi->bo", values, stacked[best])
        hidden = functional.gelu(hidden * weights.gather(1, best[:, None]))
        return update(optimizer, functional.cross_entropy(model["head"](hidden), labels))

    return Run(model, optimizer, step)


@RUNS.of(120)
def mixture_of_one_expert() -> Run:
    """The baseline of a study of mixtures: its router has one expert to choose, and is trained like all others."""
    entry, router, expert = nn.Linear(16, 16), nn.Linear(16, 1, bias=False), nn.Linear(16, 32)
    parts = {"entry": entry, "router": router, "expert": expert, "head": nn.Linear(32, 4)}
    model = nn.ModuleDict(parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        first = functional.gelu(entry(values))
        hidden = functional.gelu(expert(first) * router(first).softmax(-1))
        return update(optimizer, functional.cross_entropy(model["head"](hidden), labels))

    return Run(model, optimizer, step)


@RUNS.of(120)
def pruned_and_nearly_dead() -> Run:
    """A trained model with massive outliers, filters that decay took to denormal numbers, and pruned elements."""
    first, middle, last = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 4)
    with torch.no_grad():
        nn.init.orthogonal_(first.weight)
        middle.weight[:6] = 1e-40
        middle.weight[6:12] = 0.0
        middle.weight[12, 3] = 9.0
        nn.init.sparse_(last.weight, sparsity=0.5)
    model = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last)
    return _classifier(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


@RUNS.of(120)
def everything_at_zero() -> Run:
    """Softmax regression from zeros, its gains at one and decayed a little, in a group of their own or not."""
    norm, linear = nn.LayerNorm(16), nn.Linear(16, 4)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    model = nn.Sequential(norm, linear)
    groups: list[dict[str, Any]] = [
        {"params": [norm.weight, linear.weight], "weight_decay": 0.1},
        {"params": [norm.bias, linear.bias], "weight_decay": 0.0},
    ]
    return _classifier(model, torch.optim.AdamW(groups, lr=5e-3))


@RUNS.of(200)
def average_that_begins_late() -> Run:
    """An average that is copied until step 60 and follows slowly from then on; a target copied every 50 steps."""
    model = perceptron(16, 32, 4)
    ema, target = (copy.deepcopy(model).requires_grad_(False) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, functional.cross_entropy(model(values), labels))
        with torch.no_grad():
            for mine, its in zip(ema.parameters(), model.parameters(), strict=True):
                mine.lerp_(its, 1.0 if i < 60 else 0.01)
            if i % 50 == 49:
                target.load_state_dict(model.state_dict())
        return loss

    return Run(nn.ModuleDict({"model": model, "ema": ema, "target": target}), optimizer, step)


@RUNS.of(160)
def copies_of_many_kinds() -> Run:
    """An actor in bfloat16 copied at every step, a frozen teacher in bfloat16 that is loaded twice, a fast average."""
    model = perceptron(16, 32, 4)
    actor, teacher, fast = (copy.deepcopy(model).requires_grad_(False).bfloat16() for _ in range(3))
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, functional.cross_entropy(model(values), labels))
        with torch.no_grad():
            for mine, its in zip(actor.parameters(), model.parameters(), strict=True):
                mine.copy_(its)
            for mine, its in zip(fast.parameters(), model.parameters(), strict=True):
                mine.lerp_(its.bfloat16(), 0.5)
        if i in (40, 80):
            teacher.load_state_dict(kept)
        return loss

    parts = {"model": model, "actor": actor, "teacher": teacher, "fast": fast}
    return Run(nn.ModuleDict(parts), optimizer, step)
