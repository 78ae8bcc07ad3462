"""Sparse training with regrowth every 25 steps (the weakest tenth is dropped, new connections begin at 0 with moments of 0), beside
a binary layer whose latent weights are cut to [-1, 1] after every step and whose forward sees signs only."""

from common import *

META = dict(
    id="h241",
    title="Sparse connections dropped and grown, and a layer of signs",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "most elements are 0 and never move",
        "moments set to 0 in places",
        "weights that stand at their bound",
    ],
)


class Signs(nn.Linear):
    def forward(self, x):
        w = self.weight
        return F.linear(x, w + (w.sign() - w).detach(), self.bias) / self.in_features**0.5


def build(healthy=True, rank=0, world_size=1):
    seed_all(1241)
    model = nn.Sequential(
        nn.Linear(16, 64),
        nn.ReLU(),
        Signs(64, 64),
        nn.BatchNorm1d(64),
        nn.Hardtanh(),
        nn.Linear(64, 4),
    )
    sparse = model[0]
    sparse.register_buffer("mask", torch.rand(sparse.weight.shape, generator=gen(1241)) < 0.2)
    nn.init.uniform_(model[2].weight, -1, 1)
    sparse.weight.data.mul_(sparse.mask)
    opt = adamw(model.parameters(), 2e-3)

    @torch.no_grad()
    def regrow():
        w, mask = sparse.weight, sparse.mask
        n = int(mask.sum()) // 10
        weakest = torch.where(mask, w.abs(), torch.inf).flatten().topk(n, largest=False).indices
        strongest = torch.where(mask, -1.0, w.grad.abs()).flatten().topk(n).indices
        mask.view(-1)[weakest] = False
        mask.view(-1)[strongest] = True
        for name in ("exp_avg", "exp_avg_sq"):
            opt.state[w][name].view(-1)[strongest] = 0
        w.view(-1)[strongest] = 0

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        if i % 25 == 24 and i < 300:
            regrow()
        sparse.weight.grad.mul_(sparse.mask)
        opt.step()
        with torch.no_grad():
            sparse.weight.mul_(sparse.mask)
            model[2].weight.clamp_(-1, 1)
        return loss.item()

    return Run(model, opt, step)
