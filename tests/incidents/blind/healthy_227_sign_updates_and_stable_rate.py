"""Lion: every element moves by the same step, momentum in bf16; warm-up, a stable learning rate, then a linear way down to 0."""

from common import *

META = dict(
    id="h227",
    title="Lion with momentum in bf16 and a warm-up, stable, decay schedule",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "16-bit optimizer state by design",
        "a constant learning rate, then 0",
        "large steps of equal size",
    ],
)


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, wd):
        super().__init__(params, dict(lr=lr, weight_decay=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                m = s.setdefault("exp_avg", torch.zeros_like(p, dtype=torch.bfloat16))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((0.9 * m.float() + 0.1 * p.grad).sign(), alpha=group["lr"])
                m.copy_(0.99 * m.float() + 0.01 * p.grad)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1227)
    model = TinyLM(d=32, layers=1, norm="rms", rope=True, std=0.05)
    opt = Lion(model.parameters(), 5e-4, 0.3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(1.0, s / 20, max(0.0, (400 - s) / 80))
    )

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
