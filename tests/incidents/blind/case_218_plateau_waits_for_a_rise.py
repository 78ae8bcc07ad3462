"""ReduceLROnPlateau is told mode="max" but is given a loss: each fall of the loss is a step without improvement."""

from common import *

META = dict(
    id="218",
    title="The plateau schedule waits for the loss to rise",
    upstream="Lightning-AI/pytorch-lightning#673",
    family="schedule",
    steps=200,
    bug_step=24,
    earliest=0,
    world_size=1,
    signals=["the learning rate falls by ten again and again while the loss improves"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(218)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        opt, mode="min" if healthy else "max", factor=0.1, patience=2, threshold=1e-3
    )
    epoch = []

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        epoch.append(loss.item())
        if len(epoch) == 8:
            schedule.step(sum(epoch) / 8)
            epoch.clear()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return run.optimizer.param_groups[0]["lr"] < 1e-5
