"""Two ranks that train on their own for 12 steps (AdamW); then the mean of what they changed is taken as a gradient by an outer
optimizer with Nesterov momentum, and both go on from there (DiLoCo).  Moments stay each rank's own."""

import torch.distributed as dist
from common import *

META = dict(
    id="h240",
    title="Local steps on two ranks with an outer optimizer (DiLoCo)",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters differ between ranks for 11 of 12 steps",
        "moments always differ",
        "weights jump every 12 steps",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1240)
    model = TinyLM(d=32, layers=1, std=0.1)
    inner = adamw(model.parameters(), 2e-3)
    kept = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
    outer = sgd(kept, 0.7, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(inner, 120, eta_min=2e-4)

    def step(i):
        x, y = lm_batch(i * world_size + rank)
        loss = lm_loss(model, x, y)
        inner.zero_grad()
        loss.backward()
        inner.step()
        schedule.step()
        if i % 12 == 11:
            for k, p in zip(kept, model.parameters()):
                k.grad = k.detach() - p.detach()
                dist.all_reduce(k.grad)
                k.grad.div_(world_size)
            outer.step()
            with torch.no_grad():
                for k, p in zip(kept, model.parameters()):
                    p.copy_(k)
        return loss.item()

    return Run(model, inner, step, extra={"rank": (rank, world_size)})
