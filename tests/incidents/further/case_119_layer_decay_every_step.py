"""The optimizer wrapper multiplies each group's learning rate by its layer's decay in every step() instead of once at
construction: learning rates fall exponentially, those of early layers first."""

from common import *

META = dict(
    id="119",
    title="Layer-wise decay applied every step: learning rates fall to nothing",
    upstream="jaehyunnn/ViTPose_pytorch#20 (fixed in 0a2848e)",
    family="schedule",
    steps=100,
    bug_step=0,
    world_size=1,
    planned_steps=100,
    signals=[
        "lr of the groups falls by a constant factor a step, to 1e-12",
        "updates below an ulp",
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(119)
    model = MLP(16, 32, 4, depth=3)
    layers = [model.body[0], model.body[2], model.body[4], model.head]
    groups = [
        {"params": list(layer.parameters()), "lr": 3e-3, "decay": 0.75 ** (3 - depth)}
        for depth, layer in enumerate(layers)
    ]
    opt = adamw(groups, 3e-3)
    for group in opt.param_groups:
        group["lr"] *= group["decay"]

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        if not healthy:
            for group in opt.param_groups:
                group["lr"] *= group["decay"]
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return run.optimizer.param_groups[0]["lr"] < 1e-12
