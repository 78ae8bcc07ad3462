"""A job that is preempted again and again: saves every 20 steps, is killed at 47, 75 and 90, and each time goes on from the last
save with everything restored: weights, moments, schedule, data position."""

from common import *

META = dict(
    id="h207",
    title="Preempted three times, resumed from the last save each time",
    upstream="-",
    family="healthy",
    steps=140,
    bug_step=None,
    world_size=1,
    tempts=["work since the last save is lost", "step counter and data go back at each resume"],
)

LOST = {47: 40, 75: 60, 90: 60}


def build(healthy=True, rank=0, world_size=1):
    seed_all(1207)

    def make():
        model = TinyLM(d=32, layers=1, tie=True, std=0.1)
        opt = adamw(model.parameters(), 4e-3, wd=0.1)
        return (
            model,
            opt,
            torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / 10) * 0.99**s),
        )

    saved, behind = {}, [0]

    def step(i):
        if i in LOST:
            run.replaced(*make())
            blob = torch.load(saved["path"])
            run.model.load_state_dict(blob["model"])
            run.optimizer.load_state_dict(blob["optim"])
            run.scheduler.load_state_dict(blob["schedule"])
            behind[0] = i - blob["at"]
        at = i - behind[0]
        if at % 20 == 0 and at:
            saved["path"] = tmp_path("last.pt")
            state = {"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}
            torch.save({**state, "schedule": run.scheduler.state_dict(), "at": at}, saved["path"])
        x, y = lm_batch(at)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.scheduler.step()
        return loss.item()

    model, opt, schedule = make()
    run = Run(model, opt, step, scheduler=schedule)
    return run
