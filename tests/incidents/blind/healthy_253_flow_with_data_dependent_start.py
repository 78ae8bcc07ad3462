"""A normalising flow: activation norms are set from the first batch within its forward, a flag in a buffer says so; permutations are
constant buffers; the log-likelihood is a loss far below zero."""

from common import *

META = dict(
    id="h253",
    title="A flow whose norms are set from the first batch",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "parameters change in the first forward",
        "a flag that changes once",
        "a negative loss",
    ],
)


class Step(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        self.register_buffer("initialised", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("order", torch.randperm(d))
        self.net = nn.Sequential(nn.Linear(d // 2, 32), nn.ReLU(), nn.Linear(32, d))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x):
        if not self.initialised:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-x.std(0).log())
                self.initialised.fill_(1)
        x = ((x + self.shift) * self.log_scale.exp())[:, self.order]
        a, b = x.chunk(2, -1)
        s, t = self.net(a).chunk(2, -1)
        s = 0.5 * torch.tanh(s)
        return torch.cat([a, b * s.exp() + t], -1), self.log_scale.sum() + s.sum(-1)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1253)
    model = nn.ModuleList(Step(16) for _ in range(4))
    opt = torch.optim.Adamax(model.parameters(), 2e-3, foreach=False)

    def step(i):
        z, total = cls_batch(i, bs=64, noise=0.02)[0] * 0.1, 0.0
        for each in model:
            z, log_det = each(z)
            total = total + log_det
        loss = (0.5 * z.pow(2).sum(-1) - total).mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 5.0)
        opt.step()
        return loss.item()

    return Run(model, opt, step)
