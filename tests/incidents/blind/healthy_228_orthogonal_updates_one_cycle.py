"""Muon for matrices, AdamW for the rest, both on one-cycle schedules that also turn the momentum down and up; attention scores
are capped by scaling query and key weights down when they get too large (QK-clip)."""

from common import *

META = dict(
    id="h228",
    title="Muon and AdamW side by side on one-cycle schedules, with QK-clip",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "updates whose size has nothing to do with the gradient",
        "weights scaled outside the optimizer",
        "momentum that cycles",
    ],
)


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, momentum=0.95))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                u = p.grad.lerp(buf, group["momentum"]).bfloat16()
                u = u / (u.norm() + 1e-7)
                for _ in range(5):
                    a = u @ u.T
                    u = 3.4445 * u + (-4.775 * a + 2.0315 * a @ a) @ u
                p.mul_(1 - group["lr"] * 0.1).add_(u.float(), alpha=-group["lr"])


def build(healthy=True, rank=0, world_size=1):
    seed_all(1228)
    model = TinyLM(d=32, layers=2, norm="rms", std=0.1)
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not h for h in hidden)]
    muon, adam = Muon(hidden, 0.02), adamw(others, 3e-3)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(muon, 0.03, total_steps=250),
        torch.optim.lr_scheduler.OneCycleLR(adam, 6e-3, total_steps=250),
    ]

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        muon.zero_grad()
        adam.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
        with torch.no_grad():
            for layer in model.layers:
                highest = float(layer.attention.last_logits.abs().max())
                if highest > 12.0:
                    layer.attention.wq.weight.mul_((12.0 / highest) ** 0.5)
                    layer.attention.wk.weight.mul_((12.0 / highest) ** 0.5)
        for schedule in schedules:
            schedule.step()
        return loss.item()

    return Run(model, muon, step, extra={"optimizers": [muon, adam]})
