"""T_max is given the number of warm-up steps instead of that of all steps: CosineAnnealingLR goes on past T_max, and the
learning rate swings between 0 and its peak until the end."""

from common import *

META = dict(
    id="139",
    title="Cosine schedule with a T_max far too small swings up and down",
    upstream="lucidrains/imagen-pytorch#71; CodefyUI/CodefyUI#205",
    family="schedule",
    steps=90,
    bug_step=20,
    earliest=0,
    world_size=1,
    planned_steps=90,
    signals=["lr rises again along the same cosine after it reached 0"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(139)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 5e-3)
    t_max = META["planned_steps"] if healthy else 20
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, t_max)
    rates = []

    def step(i):
        rates.append(opt.param_groups[0]["lr"])
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        return loss.item()

    return Run(model, opt, step, scheduler=sched, extra={"rates": rates})


def evidence(run):
    rates = run.extra["rates"]
    return any(after > before for before, after in zip(rates, rates[1:]))
