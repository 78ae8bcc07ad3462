"""A hinge loss on separable data: once every margin is met the loss is exactly 0, gradients are exactly 0, and only a rare hard
batch moves anything."""

from common import *

META = dict(
    id="h215",
    title="Hinge loss that reaches exactly 0",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=["loss exactly 0", "all gradients exactly 0 for many steps", "nothing moves"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1215)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.05)

    def step(i):
        x, y = cls_batch(i, noise=0.25)
        loss = F.multi_margin_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
