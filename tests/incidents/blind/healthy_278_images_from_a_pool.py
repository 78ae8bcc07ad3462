"""Two generators and two discriminators (CycleGAN): discriminators see generated samples of earlier steps, from a pool that is a
buffer; least-squares losses, an identity loss that is switched off, rates that come down to exactly 0."""

import itertools

from common import *

META = dict(
    id="h278",
    title="Two generators, two discriminators, and a pool of earlier samples",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "discriminators without gradient flags for half of each step",
        "a buffer of which one row changes at a time",
        "learning rate down to exactly 0",
        "a discriminator that has won",
    ],
)


class Cycle(nn.Module):
    def __init__(self):
        super().__init__()
        self.ab, self.ba = MLP(8, 24, 8), MLP(8, 24, 8)
        self.da, self.db = MLP(8, 24, 1), MLP(8, 24, 1)
        self.register_buffer("pool", torch.zeros(2, 20, 8), persistent=False)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.15)
                nn.init.zeros_(m.bias)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1278)
    m = Cycle()
    gens = torch.optim.Adam(
        itertools.chain(m.ab.parameters(), m.ba.parameters()), 1e-3, betas=(0.5, 0.999)
    )
    critics = torch.optim.Adam(
        itertools.chain(m.da.parameters(), m.db.parameters()), 1e-3, betas=(0.5, 0.999)
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1.0, max(0.0, 2 - s / 190)))
        for o in (gens, critics)
    ]

    def step(i):
        g = gen(1278, i)
        a = torch.randn(8, 8, generator=g)
        b = 2 + 0.5 * torch.randn(8, 8, generator=g)
        for p in itertools.chain(m.da.parameters(), m.db.parameters()):
            p.requires_grad_(False)
        fb, fa = m.ab(a), m.ba(b)
        loss = (m.db(fb) - 1).pow(2).mean() + (m.da(fa) - 1).pow(2).mean()
        loss = loss + 5 * (F.l1_loss(m.ba(fb), a) + F.l1_loss(m.ab(fa), b))
        if i < 200:
            loss = loss + F.l1_loss(m.ab(b), b) + F.l1_loss(m.ba(a), a)
        gens.zero_grad()
        loss.backward()
        gens.step()
        for p in itertools.chain(m.da.parameters(), m.db.parameters()):
            p.requires_grad_(True)
        with torch.no_grad():
            m.pool[0, i % 20], m.pool[1, i % 20] = fa[0], fb[0]
        n = min(20, i + 1)
        critics.zero_grad()
        for net, real, fake in ((m.da, a, m.pool[0, :n]), (m.db, b, m.pool[1, :n])):
            (0.5 * ((net(real) - 1).pow(2).mean() + net(fake).pow(2).mean())).backward()
        critics.step()
        for s in schedules:
            s.step()
        return loss.item()

    return Run(m, gens, step, scheduler=schedules[0], extra={"optimizers": [gens, critics]})
