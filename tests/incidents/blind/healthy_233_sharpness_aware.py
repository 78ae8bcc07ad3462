"""Sharpness-aware minimisation around SGD with Nesterov momentum: in every step the weights are moved uphill and put back, with two
backward passes; weight decay only on matrices; polynomial decay to a floor; label smoothing and mixup."""

from common import *

META = dict(
    id="h233",
    title="Sharpness-aware minimisation: weights go uphill and back in every step",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights change outside the optimizer's step",
        "gradients of which one is thrown away",
        "two passes over one batch",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1233)
    model = ConvNet(4, 8)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 5e-3},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    opt = sgd(groups, 0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.PolynomialLR(opt, 250, power=2.0)

    def step(i):
        x, y = img_batch(i)
        g = gen(1233, i)
        share, order = float(torch.rand((), generator=g)), torch.randperm(len(x), generator=g)
        x = share * x + (1 - share) * x[order]

        def loss_of():
            out = model(x)
            one = F.cross_entropy(out, y, label_smoothing=0.1)
            return share * one + (1 - share) * F.cross_entropy(out, y[order], label_smoothing=0.1)

        loss = loss_of()
        opt.zero_grad()
        loss.backward()
        with torch.no_grad():
            scale = 0.05 / (grad_norm(model.parameters()) + 1e-12)
            shifts = [p.grad * scale for p in model.parameters()]
            for p, shift in zip(model.parameters(), shifts):
                p.add_(shift)
        opt.zero_grad()
        loss_of().backward()
        with torch.no_grad():
            for p, shift in zip(model.parameters(), shifts):
                p.sub_(shift)
        opt.step()
        if i < 240:
            schedule.step()
        return loss.item()

    return Run(model, opt, step)
