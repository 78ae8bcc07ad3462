"""Blocks are trained in turns: every 30 steps another block's requires_grad is on and the others' off, the gradients of what is
frozen are set to None, the optimizer holds all and keeps their moments; BatchNorm of what is frozen is put into eval mode."""

from common import *

META = dict(
    id="h232",
    title="Blocks frozen and thawed in turns, one optimizer for all",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "parameters that rest for 60 steps and go on",
        "statistics that stop and go on",
        "requires_grad that comes and goes",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1232)
    model = ConvNet(4, 8)
    blocks = [[model.conv1, model.bn1], [model.conv2, model.bn2], [model.fc]]
    opt = adamw(model.parameters(), 3e-3, wd=0.01)

    def choose(turn):
        for k, block in enumerate(blocks):
            for module in block:
                module.train(k == turn)
                for p in module.parameters():
                    p.requires_grad_(k == turn)
                    if k != turn:
                        p.grad = None

    def step(i):
        if i % 30 == 0:
            choose((i // 30 + 2) % 3)
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
