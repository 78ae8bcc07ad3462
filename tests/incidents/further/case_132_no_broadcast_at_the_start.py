"""Data parallelism by hand: gradients are averaged, but each rank draws its own first weights and nobody broadcasts
rank 0's.  The updates are the same and the models differ for ever."""

import torch.distributed as dist
from common import *

META = dict(
    id="132",
    title="Gradients averaged by hand, first weights not broadcast",
    upstream="PPPLDeepLearning/plasma-python#34; sparticlesteve/pytorch-benchmarks#1",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["gradients equal on all ranks, parameters not, from the first step on"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(132 + rank)
    model = MLP(16, 32, 4)
    if healthy:
        for p in model.parameters():
            dist.broadcast(p.data, 0)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i * world_size + rank, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad.div_(world_size)
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(run.model, *run.extra["rank"]) > 1e-3
