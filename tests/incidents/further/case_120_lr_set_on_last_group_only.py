"""The warm-up computes the learning rate and assigns it after the loop over the groups, not in it: only the last group
gets it.  The optimizer was made with lr 0, as the schedule is to set it, so all other groups never move."""

from common import *

META = dict(
    id="120",
    title="Learning rate assigned outside the loop: every group but the last stays at 0",
    upstream="rasbt/LLMs-from-scratch#692",
    family="schedule",
    steps=60,
    bug_step=0,
    world_size=1,
    planned_steps=60,
    signals=[
        "one group's lr is 0 for ever while another's follows a schedule; gradients are not 0"
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(120)
    model = TinyLM(d=32, layers=1, std=0.1)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    opt = adamw([{"params": decayed, "weight_decay": 0.1}, {"params": others}], 0.0)
    start = decayed[0].detach().clone()

    def step(i):
        lr = 5e-3 * min(1.0, (i + 1) / 10) * 0.5 * (1 + math.cos(math.pi * i / META["steps"]))
        for param_group in opt.param_groups:
            if healthy:
                param_group["lr"] = lr
        param_group["lr"] = lr
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start, "first": decayed[0]})


def evidence(run):
    return torch.equal(run.extra["start"], run.extra["first"])
