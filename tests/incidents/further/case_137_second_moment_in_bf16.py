"""A memory-saving Adam keeps its second moment in bf16.  With beta2 = 0.999 the decay of a thousandth is below half an
ulp and is rounded away: exp_avg_sq can grow and never fall, and in a long run it does not move at all."""

from common import *

META = dict(
    id="137",
    title="exp_avg_sq in bf16 with beta2 0.999: the second moment does not move",
    upstream="NVIDIA-NeMo/Automodel#2248; Nerogar/OneTrainer#1005",
    family="optimizer_state",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=["bf16 optimizer state beside fp32 parameters", "its elements grow and never fall"],
    loss_visible=False,
)


class LowMemoryAdam(torch.optim.Optimizer):
    def __init__(self, params, lr, dtype):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.999), eps=1e-8, dtype=dtype))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                if not s:
                    s["step"] = torch.tensor(0.0)
                    s["exp_avg"] = torch.zeros_like(p)
                    s["exp_avg_sq"] = torch.zeros_like(p, dtype=group["dtype"])
                s["step"] += 1
                s["exp_avg"].lerp_(p.grad, 0.1)
                s["exp_avg_sq"].mul_(0.999).add_((p.grad**2).to(group["dtype"]), alpha=0.001)
                t = float(s["step"])
                denominator = (s["exp_avg_sq"].float() / (1 - 0.999**t)).sqrt() + group["eps"]
                p.add_(s["exp_avg"] / (1 - 0.9**t) / denominator, alpha=-group["lr"])


def build(healthy, rank=0, world_size=1):
    seed_all(137)
    model = TinyLM(d=32, layers=1, std=0.1)
    dtype = torch.float32 if healthy else torch.bfloat16
    opt = LowMemoryAdam(model.parameters(), 3e-3, dtype)
    watched = model.layers[0].feed_forward.w2.weight

    def step(i):
        x, y = lm_batch(i, bs=16)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i == META["steps"] - 11:
            run.extra["then"] = opt.state[watched]["exp_avg_sq"].clone()
        run.extra["now"] = opt.state[watched]["exp_avg_sq"]
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return not bool((run.extra["now"] < run.extra["then"]).any())  # it never decays
