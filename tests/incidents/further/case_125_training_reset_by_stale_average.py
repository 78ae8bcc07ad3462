"""ema.update() is never called, yet the averaged weights are applied to the model at the end of each epoch before saving:
every epoch ends where the first one began, in the checkpoint and in the model."""

from common import *

META = dict(
    id="125",
    title="EMA never updated, but applied each epoch: training starts over every time",
    upstream="MultimediaTechLab/YOLO#97 (fix #104)",
    family="overwritten",
    steps=75,
    bug_step=14,
    world_size=1,
    signals=[
        "weights jump back to their first values, by no optimizer",
        "each checkpoint is the same",
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(125)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3)
    shadow = clone_state(model)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if healthy:
            for name, p in model.named_parameters():
                shadow[name].lerp_(p.detach(), 0.1)
        if i % 15 == 14:
            trained = clone_state(model)
            model.load_state_dict(shadow)
            torch.save(model.state_dict(), tmp_path("epoch.pt"))
            if healthy:
                model.load_state_dict(trained)
        return loss.item()

    return Run(model, opt, step, extra={"start": clone_state(model)})


def evidence(run):
    now = clone_state(run.model)
    return all(torch.equal(now[name], start) for name, start in run.extra["start"].items())
