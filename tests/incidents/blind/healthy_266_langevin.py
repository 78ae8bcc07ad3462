"""Samples of the posterior by stochastic gradient Langevin dynamics: noise is added to the weights after each step, the learning rate
goes in cycles, and at the end of each cycle the weights are added to a buffer that grows."""

from common import *

META = dict(
    id="h266",
    title="Langevin dynamics: noise on the weights, snapshots in a buffer that grows",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights change outside the optimizer's step in every step",
        "weights wander and their norms grow",
        "a buffer that has another shape now and then",
        "learning rate comes up again and again",
    ],
)


class Sampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4)
        size = sum(p.numel() for p in self.net.parameters())
        self.register_buffer("samples", torch.zeros(0, size), persistent=False)

    def forward(self, x):
        return self.net(x)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1266)
    model = Sampled()
    opt = sgd(model.parameters(), 0.05, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 50, eta_min=1e-3)

    def step(i):
        x, y = cls_batch(i, noise=1.2)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        lr = opt.param_groups[0]["lr"]
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=(2 * lr * 1e-4) ** 0.5)
        schedule.step()
        if i % 50 == 49:
            flat = torch.cat([p.detach().flatten() for p in model.parameters()])
            model.samples = torch.cat([model.samples, flat[None]])
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
