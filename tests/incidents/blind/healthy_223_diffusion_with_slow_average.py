"""Denoising diffusion: the level of noise is drawn anew for each sample, so that the loss jumps about; an average with decay
0.9999 after a warm-up; the last layer begins at zero; sinusoidal levels in a buffer."""

import copy

from common import *

META = dict(
    id="h223",
    title="Denoising diffusion with a slow average and a zero-initialised last layer",
    upstream="-",
    family="healthy",
    steps=500,
    bug_step=None,
    world_size=1,
    tempts=[
        "a layer of zeros at the start",
        "zero gradients behind it",
        "an average that hardly moves",
    ],
)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("alphas", torch.cos(torch.linspace(0.01, 1.5, 100)) ** 2)
        self.level = nn.Embedding(100, 32)
        self.inner, self.mid, self.outer = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.modulation = nn.Linear(32, 64)
        for layer in (self.outer, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, t):
        scale, shift = self.modulation(F.silu(self.level(t))).chunk(2, 1)
        h = F.silu(self.inner(x)) * (1 + scale) + shift
        return self.outer(F.silu(self.mid(h)))


class WithAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Denoiser()
        self.ema = copy.deepcopy(self.net).requires_grad_(False)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1223)
    model = WithAverage()
    opt = adamw(model.net.parameters(), 2e-3)

    def step(i):
        g = gen(1223, i)
        x, _ = cls_batch(i, noise=0.2)
        t = torch.randint(0, 100, (32,), generator=g)
        noise = torch.randn(x.shape, generator=g)
        a = model.net.alphas[t][:, None]
        loss = F.mse_loss(model.net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.net.parameters(), 1.0)
        opt.step()
        with torch.no_grad():
            decay = 0.0 if i < 50 else 0.9999
            for e, p in zip(model.ema.parameters(), model.net.parameters()):
                e.lerp_(p, 1 - decay)
        return loss.item()

    return Run(model, opt, step)
