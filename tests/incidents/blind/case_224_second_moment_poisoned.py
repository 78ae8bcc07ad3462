"""One sample carries a fill value.  Its squared gradient is so large that Adam's second moment takes tens of thousands of steps
to forget it: after the first few, nothing moves any more, and no number is infinite anywhere."""

from common import *

META = dict(
    id="224",
    title="One fill value in the data, and Adam's second moment stops every update",
    upstream="FeRx-NLME/ferx-core#1097 (fix #1112); anthonytorlucci/rlevo#184",
    family="lost_update",
    steps=500,
    bug_step=40,
    world_size=1,
    signals=["second moments jump by twenty orders of magnitude", "updates fall below rounding"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(224)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = reg_batch(i)
        if i == 40:
            y[3] = 9.96921e15
            if healthy:
                x, y = x[y[:, 0] < 1e10], y[y[:, 0] < 1e10]
        loss = F.mse_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.optimizer.state[run.model[0].weight]["exp_avg_sq"].max()) > 1e10
