"""Warm restarts first, then ReduceLROnPlateau down to its floor, on a problem that is soon as good as it gets; many steps."""

from common import *

META = dict(
    id="h218",
    title="Warm restarts, then a plateau schedule that reaches its floor",
    upstream="-",
    family="healthy",
    steps=1200,
    bug_step=None,
    world_size=1,
    tempts=[
        "learning rate jumps up again and again",
        "learning rate falls by a thousand",
        "loss stands still",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1218)
    model = MLP(16, 32, 1, dropout=0.1)
    opt = sgd(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 50, T_mult=2)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.3, patience=3, min_lr=1e-5)
    seen = []

    def step(i):
        x, y = reg_batch(i)
        loss = F.mse_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        seen.append(loss.item())
        if i < 350:
            restarts.step()
        elif i % 25 == 24:
            plateau.step(sum(seen[-25:]) / 25)
        return loss.item()

    return Run(model, opt, step)
