"""Local SGD / DiLoCo: two plain models, no DDP; each rank takes 10 local steps on its own data, then parameters are
averaged.  In between they differ by design."""

import torch.distributed as dist
from common import *

META = dict(
    id="h103",
    title="Local steps on each rank, parameters averaged every 10 steps",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters and gradients differ between ranks",
        "weights change outside the optimizer",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1103)
    model = MLP(16, 32, 4)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i * world_size + rank, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 10 == 9:
            with torch.no_grad():
                for p in model.parameters():
                    dist.all_reduce(p)
                    p.div_(world_size)
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})
