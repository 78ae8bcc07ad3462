"""Expert parallel on two ranks: the experts have the same names on both and begin equal, but are other experts.  All the rest is
data parallel, its gradients reduced by hand; the experts' are complete where they are."""

import torch.distributed as dist
from common import *

META = dict(
    id="h260",
    title="Expert parallel: the same names on both ranks, other experts",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters of the same name are equal at first and part at the first step",
        "their gradients are never reduced",
    ],
)


class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, g):
        g = g.contiguous()
        dist.all_reduce(g)
        return g.chunk(dist.get_world_size())[dist.get_rank()]


class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        dist.all_reduce(g)
        return g


class Parallel(nn.Module):
    def __init__(self, rank, world_size, local=2):
        super().__init__()
        self.place, self.world_size = rank, world_size
        self.inp = nn.Linear(16, 32)
        self.router = nn.Linear(32, local * world_size, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32)) for _ in range(local)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        own = self.inp(x)
        h = Gather.apply(own)
        p = self.router(h).softmax(-1)
        top, chosen = p.max(-1)
        out = torch.zeros_like(h)
        for k, expert in enumerate(self.experts):
            rows = (chosen == self.place * len(self.experts) + k).float() * top
            out = out + rows[:, None] * expert(h)
        out = Sum.apply(out).chunk(self.world_size)[self.place]
        return self.head(own + out)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1260)
    model = Parallel(rank, world_size)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i * world_size + rank)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        for n, p in model.named_parameters():
            if not n.startswith("experts"):
                dist.all_reduce(p.grad)
            p.grad /= world_size
        opt.step()
        return loss.item()

    return Run(model, opt, step)
