"""Parameters in bf16 with Kahan compensation: what an update loses by rounding is kept in the optimizer's state and added to
the next one.  Few elements change in a step, and nothing is lost."""

from common import *

META = dict(
    id="h214",
    title="bf16 parameters with Kahan summation in the optimizer",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=["most elements of bf16 parameters do not change in a step", "16-bit state by design"],
)


class KahanAdamW(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.99), eps=1e-8))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad.float()
                if not s:
                    s["step"] = torch.tensor(0.0)
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
                    s["compensation"] = torch.zeros_like(p)
                s["step"] += 1
                s["exp_avg"].lerp_(g, 1 - b1)
                s["exp_avg_sq"].lerp_(g * g, 1 - b2)
                n = float(s["step"])
                denominator = (s["exp_avg_sq"] / (1 - b2**n)).sqrt() + group["eps"]
                update = -group["lr"] * s["exp_avg"] / (1 - b1**n) / denominator
                s["compensation"].add_(update.to(p.dtype))
                before = p.clone()
                p.add_(s["compensation"])
                s["compensation"].add_(before.sub_(p))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1214)
    model = TinyLM(d=32, layers=1, norm="rms", std=0.1).bfloat16()
    opt = KahanAdamW(model.parameters(), 5e-4)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
