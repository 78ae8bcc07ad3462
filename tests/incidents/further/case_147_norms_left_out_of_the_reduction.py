"""Gradients are reduced by hand over a list of parameters that was made by name or by kind, and the norms are not in it:
they take steps with local gradients and part, while all large matrices stay equal."""

import torch.distributed as dist
from common import *

META = dict(
    id="147",
    title="All-reduce by hand leaves out the norm layers: only they part",
    upstream="NVIDIA-NeMo/RL#3716; NVIDIA/Megatron-LM#1446; InternLM/InternEvo#420",
    family="divergence",
    steps=40,
    bug_step=0,
    world_size=2,
    signals=["a few small parameters differ between ranks, all others are equal"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(147)
    model = TinyLM(d=32, layers=1, std=0.1)
    reduced = [p for n, p in model.named_parameters() if healthy or "norm" not in n]
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = lm_batch(i * world_size + rank, bs=4)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in reduced])
        dist.all_reduce(flat)
        for p, part in zip(reduced, flat.split([p.numel() for p in reduced])):
            p.grad.copy_(part.view_as(p) / world_size)
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff([run.model.norm.weight], *run.extra["rank"]) > 1e-5
