"""Two ranks that are never quite equal: each takes a quarter of the other's weights every second step, and has data of its own kind."""

import torch.distributed as dist
from common import *

META = dict(
    id="h261",
    title="Decentralised training: a quarter of the neighbour's weights every second step",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters are near each other and never equal",
        "weights change outside the optimizer's step",
        "gradients are never reduced",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1261)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def step(i):
        x, y = cls_batch(i * world_size + rank, noise=0.7 + 0.5 * rank)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 2:
            with torch.no_grad():
                for p in model.parameters():
                    total = p.detach().clone()
                    dist.all_reduce(total)
                    p.mul_(0.5).add_(total, alpha=0.25)
        return loss.item()

    return Run(model, opt, step)
