"""L-BFGS with a closure over one batch of all data: up to ten backward passes a step, the state in lists, and a loss that is met
after a while, so that steps become no steps at all."""

from common import *

META = dict(
    id="h226",
    title="L-BFGS on all data at once, until there is nothing to do",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=1,
    tempts=[
        "the same batch in every pass",
        "ten backward passes a step",
        "in the end nothing moves",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1226)
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=10, history_size=5)
    x, y = reg_batch(0, bs=256)

    def step(i):
        def closure():
            opt.zero_grad()
            penalty = sum(p.pow(2).sum() for p in model.parameters())
            loss = F.mse_loss(model(x), y) + 1e-2 * penalty
            loss.backward()
            return loss

        return float(opt.step(closure))

    return Run(model, opt, step)
