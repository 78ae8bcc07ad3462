"""A cosine that reaches exactly 0 some time before the end; the last steps change nothing and are still taken, for the
logs."""

from common import *

META = dict(
    id="h201",
    title="Cosine down to exactly 0, and a tail of steps at 0",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    planned_steps=300,
    tempts=["learning rate 0 for many steps", "no parameter moves any more"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1201)
    model = TinyLM(d=32, layers=1, tie=True, dropout=0.1, std=0.1)
    opt = adamw(model.parameters(), 5e-3, wd=0.05)

    def factor(s):
        return (s + 1) / 20 if s < 20 else 0.5 * (1 + math.cos(math.pi * min(1.0, (s - 20) / 260)))

    schedule = torch.optim.lr_scheduler.LambdaLR(opt, factor)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
