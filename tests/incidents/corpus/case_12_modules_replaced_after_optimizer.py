"""Opacus ModuleValidator.fix() swaps BatchNorm for GroupNorm after the optimizer took model.parameters(): the new
affine parameters receive gradients but belong to no optimizer."""

from common import *

META = dict(
    id="12",
    title="Norm layers replaced after optimizer creation; new parameters never updated",
    upstream="meta-pytorch/opacus#432 (from #431)",
    family="coverage",
    steps=40,
    bug_step=0,
    world_size=1,
    signals=["parameters with gradients outside every optimizer group"],
    loss_visible=False,
)


def fix(model):
    for n in ("bn1", "bn2"):
        setattr(model, n, nn.GroupNorm(4, getattr(model, n).num_features))
    return model


def build(healthy, rank=0, world_size=1):
    seed_all(12)
    model = ConvNet()
    if healthy:
        model = fix(model)
    opt = sgd(model.parameters(), 0.1, momentum=0.9)
    if not healthy:
        model = fix(model)

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    w = run.model.bn1.weight
    return bool(torch.equal(w, torch.ones_like(w)) and w.grad is not None and w.grad.norm() > 0)
