"""Fused Adam with amsgrad and a learning rate that is a tensor, a one-cycle schedule that fills it, and a second optimizer that
maximises (the multipliers of a constraint, kept at or above 0)."""

from common import *

META = dict(
    id="h270",
    title="Fused Adam with a tensor rate, and multipliers that are maximised",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "the rate is the same object all along",
        "parameters that go up their gradient",
        "parameters that stand at 0 for long",
        "a maximum of second moments that only grows",
    ],
)


class Constrained(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4)
        self.multipliers = nn.Parameter(torch.zeros(4))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1270)
    model = Constrained()
    opt = torch.optim.Adam(model.net.parameters(), torch.tensor(3e-3), amsgrad=True, fused=True)
    ascent = torch.optim.SGD([model.multipliers], 0.02, maximize=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 6e-3, total_steps=300, cycle_momentum=False)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        out = model.net(x)
        share = out.softmax(-1).mean(0)
        excess = share - 0.3
        loss = F.cross_entropy(out, y)
        opt.zero_grad()
        ascent.zero_grad()
        (loss + (model.multipliers * excess).sum()).backward()
        opt.step()
        ascent.step()
        with torch.no_grad():
            model.multipliers.clamp_(min=0)
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule, extra={"optimizers": [opt, ascent]})
