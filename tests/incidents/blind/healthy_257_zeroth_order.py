"""Tuned without a backward pass (MeZO): weights are moved a little up and down a random direction that is drawn again from its seed,
and the difference of two losses is all that is known of the gradient."""

from common import *

META = dict(
    id="h257",
    title="Zeroth-order tuning: two forward passes, the gradient is a number and a seed",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "no backward pass at all",
        "gradients that are put there by hand and have nothing to do with each other",
        "weights go up and down in place within a step",
        "a loss that hardly falls",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(1257)
    params = list(model.parameters())
    opt = sgd(params, 2e-4)
    eps = 1e-3

    def move(seed, by):
        g = gen(1257, seed)
        with torch.no_grad():
            for p in params:
                p.add_(torch.randn(p.shape, generator=g), alpha=by)

    def step(i):
        x, y = shifted_batch(i)
        with torch.inference_mode():
            move(i, eps)
            up = lm_loss(model, x, y)
            move(i, -2 * eps)
            down = lm_loss(model, x, y)
            move(i, eps)
        slope = float(up - down) / (2 * eps)
        g = gen(1257, i)
        for p in params:
            p.grad = slope * torch.randn(p.shape, generator=g)
        opt.step()
        opt.zero_grad()
        return float(up)

    return Run(model, opt, step)
