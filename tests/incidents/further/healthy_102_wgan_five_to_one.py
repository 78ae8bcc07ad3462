"""A WGAN: five critic steps for one of the generator, weights of the critic clipped to a box after each of its steps,
two optimizers."""

from common import *

META = dict(
    id="h102",
    title="WGAN with five critic steps to one generator step and clipped critic weights",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=1,
    tempts=[
        "generator still in 4 of 5 steps",
        "weights changed outside the optimizer",
        "loss of any sign",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1102)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)),
            "critic": nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)),
        }
    )
    g, c = model["generator"], model["critic"]
    opt_g = torch.optim.RMSprop(g.parameters(), lr=5e-4)
    opt_c = torch.optim.RMSprop(c.parameters(), lr=5e-4)

    def step(i):
        real, _ = cls_batch(i)
        z = torch.randn(32, 8, generator=gen(1102, i))
        opt_c.zero_grad()
        loss = c(g(z).detach()).mean() - c(real).mean()
        loss.backward()
        opt_c.step()
        with torch.no_grad():
            for p in c.parameters():
                p.clamp_(-0.1, 0.1)
        if i % 5 == 4:
            opt_g.zero_grad()
            (-c(g(z)).mean()).backward()
            opt_g.step()
        return loss.item()

    return Run(model, opt_c, step, extra={"optimizers": [opt_c, opt_g]})
