"""Stopped and resumed twice: the second process has batches four times as large and twice the learning rate, the third accumulates
them over eight microbatches on a smaller machine, and warms up again for ten steps."""

from common import *

META = dict(
    id="h258",
    title="Resumed with another batch size, learning rate and accumulation, twice",
    upstream="-",
    family="healthy",
    steps=210,
    bug_step=None,
    world_size=1,
    tempts=[
        "learning rate changes at the resume",
        "gradient norms fall by half at the resume",
        "several backward passes a step from then on",
        "a schedule that is made anew",
    ],
)

PLANS = [(8, 1, 2e-3), (32, 1, 4e-3), (4, 8, 3e-3)]


def build(healthy=True, rank=0, world_size=1):
    def make(lr):
        model = TinyLM(d=32, layers=1, std=0.1, dropout=0.1)
        opt = adamw(model.parameters(), lr, wd=0.01)
        warm = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / 10))
        return model, opt, warm

    def step(i):
        phase = i // 70
        size, parts, lr = PLANS[phase]
        if i and i % 70 == 0:
            path = tmp_path("last.pt")
            blob = {"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}
            torch.save(blob, path)
            run.replaced(*make(lr))
            blob = torch.load(path)
            run.model.load_state_dict(blob["model"])
            own = [{k: g[k] for k in ("lr", "initial_lr")} for g in run.optimizer.param_groups]
            run.optimizer.load_state_dict(blob["optim"])
            for g, mine in zip(run.optimizer.param_groups, own):
                g.update(mine)
        total = 0.0
        run.optimizer.zero_grad()
        for k in range(parts):
            x, y = lm_batch(i * 64 + k, bs=size)
            loss = lm_loss(run.model, x, y) / parts
            loss.backward()
            total += loss.item()
        run.optimizer.step()
        run.scheduler.step()
        return total

    seed_all(1258)
    model, opt, schedule = make(PLANS[0][2])
    run = Run(model, opt, step, scheduler=schedule)
    return run
