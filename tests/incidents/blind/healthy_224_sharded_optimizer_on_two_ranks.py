"""Two ranks by hand: gradients are averaged, each rank holds the optimizer state of half the parameters and broadcasts what it
updated (ZeRO stage 1), with the halves of unequal size; dropout draws differ between ranks."""

import torch.distributed as dist
from common import *

META = dict(
    id="h224",
    title="Two ranks, each updates its half of the parameters and broadcasts them",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters in no group of this rank's optimizer",
        "optimizer state differs between ranks",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1224)
    model = TinyLM(d=32, layers=2, dropout=0.1, std=0.1)
    torch.manual_seed(1224 + rank)
    parameters = list(model.parameters())
    owner = [0 if k % 3 else min(1, world_size - 1) for k in range(len(parameters))]
    opt = adamw([p for p, o in zip(parameters, owner) if o == rank], 3e-3)

    def step(i):
        x, y = lm_batch(i * world_size + rank)
        loss = lm_loss(model, x, y)
        model.zero_grad()
        loss.backward()
        for p in parameters:
            dist.all_reduce(p.grad)
            p.grad.div_(world_size)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        opt.step()
        for p, o in zip(parameters, owner):
            dist.broadcast(p.data, o)
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})
