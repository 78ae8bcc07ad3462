"""Everything in bf16, with no copy in fp32: the optimizer rounds each new weight up or down by chance, so that updates far below a bit
are right on average."""

from common import *

META = dict(
    id="h276",
    title="bf16 weights and moments, rounded by chance",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "most elements of a parameter do not change in a step",
        "updates are far below the last bit",
        "16-bit moments and nothing else",
    ],
)


class ByChance(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.95)))
        self.source = torch.Generator().manual_seed(5)

    def write(self, p, value):
        bits = value.float().view(torch.int32)
        noise = torch.randint(0, 1 << 16, bits.shape, generator=self.source, dtype=torch.int32)
        p.copy_(((bits + noise) & -65536).view(torch.float32))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s, g = self.state[p], p.grad.float()
                if not s:
                    s["step"] = 0
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                s["step"] += 1
                m, v = s["exp_avg"].float().lerp(g, 1 - b1), s["exp_avg_sq"].float()
                v = v.mul(b2).addcmul(g, g, value=1 - b2)
                self.write(s["exp_avg"], m)
                self.write(s["exp_avg_sq"], v)
                up = (m / (1 - b1 ** s["step"])) / ((v / (1 - b2 ** s["step"])).sqrt() + 1e-8)
                self.write(p, p.float() - group["lr"] * up)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1276)
    model = TinyLM(d=32, layers=1, std=0.1).to(torch.bfloat16)
    opt = ByChance(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(1.0, (s + 1) / 20) * (1 - 0.98 * s / 400)
    )

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
