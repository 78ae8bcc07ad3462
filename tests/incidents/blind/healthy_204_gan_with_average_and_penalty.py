"""A GAN with a spectrally normalised critic, two time scales, a gradient penalty every 8 steps and an average of the generator:
losses that have no trend, and a critic that at times is much stronger."""

import copy

from common import *
from torch.nn.utils.parametrizations import spectral_norm

META = dict(
    id="h204",
    title="GAN with spectral norm, lazy gradient penalty and an averaged generator",
    upstream="-",
    family="healthy",
    steps=500,
    bug_step=None,
    world_size=1,
    fall=10.0,
    tempts=["losses without a trend", "gradients that jump every 8 steps", "an average that lags"],
)


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = MLP(8, 32, 16, bn=True)
        self.critic = nn.Sequential(
            spectral_norm(nn.Linear(16, 32)), nn.LeakyReLU(0.2), spectral_norm(nn.Linear(32, 1))
        )
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()


def build(healthy=True, rank=0, world_size=1):
    seed_all(1204)
    model = Gan()
    g_opt = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    d_opt = torch.optim.Adam(model.critic.parameters(), lr=4e-3, betas=(0.0, 0.99))

    def step(i):
        real, _ = cls_batch(i)
        fake = model.generator(torch.randn(32, 8, generator=gen(1204, i)))
        real.requires_grad_(i % 8 == 0)
        score = model.critic(real)
        d_loss = F.relu(1 + model.critic(fake.detach())).mean() + F.relu(1 - score).mean()
        if i % 8 == 0:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            d_loss = d_loss + 8 * 5.0 * slope.pow(2).sum(1).mean()
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        model.critic.requires_grad_(False)
        g_loss = -model.critic(fake).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        model.critic.requires_grad_(True)
        with torch.no_grad():
            decay = min(0.995, (1 + i) / (10 + i))
            for a, p in zip(model.average.parameters(), model.generator.parameters()):
                a.lerp_(p, 1 - decay)
            for a, b in zip(model.average.buffers(), model.generator.buffers()):
                a.copy_(b)
        return d_loss.item()

    return Run(model, g_opt, step, extra={"optimizers": [g_opt, d_opt]})
