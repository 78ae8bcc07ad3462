"""Spectral norm on a critic, weight norm on a generator: weights are computed in each forward pass, power-iteration vectors
are buffers that change in every pass, in eval mode not at all."""

from common import *
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

META = dict(
    id="h110",
    title="Spectral norm and weight norm by parametrisation",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=1,
    tempts=["the weight is no parameter", "buffers of unit length that move each pass"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1110)
    model = nn.Sequential(
        spectral_norm(nn.Linear(16, 32)),
        nn.LeakyReLU(0.2),
        weight_norm(nn.Linear(32, 32)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(32, 4)),
    )
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        model.train()
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 15 == 14:
            model.eval()
            with torch.no_grad():
                model(cls_batch(1000 + i)[0])
        return loss.item()

    return Run(model, opt, step)
