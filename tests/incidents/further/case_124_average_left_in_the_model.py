"""save_checkpoint copies the EMA weights into the model and does not restore the trained ones: training goes on from the
average after every save.  Fix: store() before, restore() after."""

import copy

from common import *

META = dict(
    id="124",
    title="EMA weights copied into the model for a save and never swapped back",
    upstream="harubaru/waifu-diffusion#31; PKU-YuanGroup/Open-Sora-Plan#186; same class mir-group/nequip#590",
    family="overwritten",
    steps=70,
    bug_step=19,
    world_size=1,
    signals=["all weights change between two steps, by no optimizer", "right after a save"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(124)
    model = TinyLM(d=32, layers=1, std=0.1)
    ema = copy.deepcopy(model).requires_grad_(False)
    opt = adamw(model.parameters(), 3e-3)

    def save(path):
        stored = clone_state(model)
        model.load_state_dict(ema.state_dict())
        torch.save(model.state_dict(), path)
        if healthy:
            model.load_state_dict(stored)
        now = clone_state(model)
        run.extra["far"] = max(float((now[name] - stored[name]).abs().max()) for name in now)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for average, p in zip(ema.parameters(), model.parameters()):
                average.lerp_(p, 0.02)
        if i in (19, 39, 59):
            run.save(tmp_path("unet.pt"))
        return loss.item()

    run = Run(model, opt, step, save=save)
    return run


def evidence(run):
    return run.extra["far"] > 1e-3
