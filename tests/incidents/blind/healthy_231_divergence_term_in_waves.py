"""A variational autoencoder: the weight of the KL term is exactly 0 for 60 steps and comes in waves later; cyclical learning rate;
some dimensions of the code collapse onto the prior, as they do."""

from common import *

META = dict(
    id="h231",
    title="Variational autoencoder with a KL weight in waves and a cyclical rate",
    upstream="-",
    family="healthy",
    steps=500,
    bug_step=None,
    world_size=1,
    tempts=[
        "a head with nearly no gradient at first",
        "loss that goes up with each wave",
        "dimensions that fall asleep",
    ],
)


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.SiLU())
        self.mean, self.log_var = nn.Linear(32, 12), nn.Linear(32, 12)
        nn.init.constant_(self.log_var.bias, -6.0)
        nn.init.zeros_(self.log_var.weight)
        self.decoder = nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.Linear(32, 16))

    def forward(self, x):
        h = self.body(x)
        m, v = self.mean(h), self.log_var(h)
        kl = 0.5 * (m.pow(2) + v.exp() - 1 - v).sum(-1).mean()
        return self.decoder(m + torch.randn_like(m) * (0.5 * v).exp()), kl


def build(healthy=True, rank=0, world_size=1):
    seed_all(1231)
    model = Variational()
    opt = adamw(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CyclicLR(opt, 2e-4, 4e-3, 40, cycle_momentum=False)

    def step(i):
        x, _ = cls_batch(i, noise=0.5)
        weight = 0.0 if i < 60 else min(1.0, (i % 120) / 60) * 0.3
        out, kl = model(x)
        loss = F.mse_loss(out, x, reduction="sum") / len(x) + weight * kl
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
