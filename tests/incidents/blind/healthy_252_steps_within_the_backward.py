"""One optimizer a parameter, stepped as soon as its gradient is there, which is freed at once; a schedule for each."""

from common import *

META = dict(
    id="h252",
    title="An optimizer a parameter, stepped within the backward pass",
    upstream="-",
    family="healthy",
    steps=200,
    bug_step=None,
    world_size=1,
    tempts=[
        "no gradient is left after the backward pass",
        "seventeen optimizers",
        "seventeen schedules",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1252)
    model = TinyLM(d=32, layers=1, std=0.1)
    opts = {p: adamw([p], 3e-3) for p in model.parameters()}
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 200, 1e-4) for o in opts.values()]

    def step_one(p):
        opts[p].step()
        opts[p].zero_grad()

    for p in opts:
        p.register_post_accumulate_grad_hook(step_one)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        loss.backward()
        for schedule in schedules:
            schedule.step()
        return loss.item()

    return Run(model, None, step, extra={"optimizers": list(opts.values())})
