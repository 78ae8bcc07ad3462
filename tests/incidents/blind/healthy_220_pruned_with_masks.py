"""Iterative magnitude pruning: a mask in a buffer, weights set to zero after each step, more of them every 60 steps until 90 % of
the first layer are zero."""

from common import *

META = dict(
    id="h220",
    title="Iterative magnitude pruning with masks applied after each step",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "most elements of a weight are 0 and never move",
        "norms fall in jumps",
        "weights changed outside",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1220)
    model = MLP(16, 64, 4)
    prunable = [m for m in model.body if isinstance(m, nn.Linear)]
    for m in prunable:
        m.register_buffer("mask", torch.ones_like(m.weight))
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for m in prunable:
                if i % 60 == 59 and i < 240:
                    share = (0.4, 0.65, 0.8, 0.9)[i // 60]
                    m.mask.copy_((m.weight.abs() > m.weight.abs().quantile(share)).float())
                m.weight.mul_(m.mask)
        return loss.item()

    return Run(model, opt, step)
