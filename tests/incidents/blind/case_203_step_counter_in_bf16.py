"""The optimizer makes its step counter with torch.tensor(0.0) while the default dtype is bf16: 256 + 1 is 256, the counter
stands still, and the bias correction with it."""

from common import *

META = dict(
    id="203",
    title="Adam's step counter is made in bf16 and stops at 256",
    upstream="pytorch/ao#4915",
    family="optimizer_state",
    steps=420,
    bug_step=256,
    earliest=0,
    world_size=1,
    signals=["step counter in bf16", "step counter stands still while steps go on"],
    loss_visible=False,
)


class LazyAdam(torch.optim.Optimizer):
    """Adam whose state is made at the first step, in the default dtype of then."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.999), eps=1e-8))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad
                if not s:
                    s["step"] = torch.tensor(0.0)
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                s["step"] += 1
                s["exp_avg"].lerp_(g, 1 - b1)
                s["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
                n = float(s["step"])
                denominator = (s["exp_avg_sq"] / (1 - b2**n)).sqrt() + group["eps"]
                p.addcdiv_(s["exp_avg"] / (1 - b1**n), denominator, value=-group["lr"])


def build(healthy, rank=0, world_size=1):
    seed_all(203)
    model = MLP(16, 32, 4)
    opt = LazyAdam(model.parameters(), 3e-4)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        if i == 0 and not healthy:
            torch.set_default_dtype(torch.bfloat16)
        try:
            opt.step()
        finally:
            torch.set_default_dtype(torch.float32)
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(next(iter(run.optimizer.state.values()))["step"]) < META["steps"]
