"""Epochs of 13 microbatches in windows of 4, so that the last step of each epoch has one; losses that are not finite are left out by
hand; a schedule by epochs; evaluation in the middle of a window; training stops early and is taken up again."""

from common import *

META = dict(
    id="h277",
    title="Accumulation with a rest of one, NaN losses left out by hand, stopped and taken up",
    upstream="-",
    family="healthy",
    steps=320,
    bug_step=None,
    world_size=1,
    tempts=[
        "one step of four has a quarter of the gradient",
        "losses that are NaN",
        "steps without any gradient",
        "eval mode between backward passes of one step",
        "an optimizer and a schedule made anew in the middle",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1277)
    model = MLP(16, 32, 4, bn=True, dropout=0.1)

    def make(lr):
        opt = adamw(model.parameters(), lr, wd=0.01)
        return opt, torch.optim.lr_scheduler.CosineAnnealingLR(opt, 40, eta_min=lr / 10)

    made = list(make(3e-3))
    optimizers = [made[0]]

    def evaluate():
        model.eval()
        with torch.no_grad():
            model(cls_batch(10_000)[0])
        model.train()

    def step(i):
        if i == 160:
            made[:] = make(1e-3)
            optimizers[0] = run.optimizer = made[0]
        opt, schedule = made
        window = i % 4
        parts = 1 if window == 3 else 4
        total = math.nan
        opt.zero_grad()
        for k in range(parts):
            x, y = cls_batch(4 * i + k, bs=16, noise=1.2)
            if (4 * i + k) % 37 == 5 or (parts == 1 and i % 20 == 3):
                x = x * math.nan
                model.eval()
            loss = F.cross_entropy(model(x), y)
            model.train()
            if not torch.isfinite(loss):
                continue
            (loss / 4).backward()
            total = loss.item()
            if k == 1 and i % 16 == 8:
                evaluate()
        opt.step()
        if window == 3:
            schedule.step()
        return total

    run = Run(model, made[0], step, scheduler=made[1], extra={"optimizers": optimizers})
    return run
