"""A warm restart by a new CosineAnnealingLR over the same optimizer.  Its first value is the learning rate as it is, 0, and all
later ones are multiples of it."""

import warnings

from common import *

META = dict(
    id="231",
    title="A schedule made anew for a warm restart goes on from a learning rate of 0",
    upstream="pytorch/pytorch#78003",
    family="schedule",
    steps=160,
    bug_step=40,
    earliest=38,
    world_size=1,
    signals=["the learning rate is 0, and stays there for the rest of the training"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(231)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3)
    run = Run(model, opt, None)

    def anneal():
        if healthy:
            for group in opt.param_groups:
                group["lr"] = group["initial_lr"] = 3e-3
        run.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 40)

    anneal()

    def step(i):
        if i in (40, 80, 120):
            anneal()
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.scheduler.step()
        if i == 60:
            run.extra["rate"] = opt.param_groups[0]["lr"]
        return loss.item()

    run.step = step
    return run


def evidence(run):
    return run.extra["rate"] < 1e-5
