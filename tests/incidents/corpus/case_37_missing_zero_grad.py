"""optimizer.zero_grad() forgotten: gradients of all past batches are summed, gradient norm grows without bound."""

from common import *

META = dict(
    id="37",
    title="Missing zero_grad: gradients accumulate over iterations",
    upstream="stackoverflow.com/q/60335387 (TrainCheck benchmark); wenet-e2e/wekws#73; meta-pytorch/torchforge#71",
    family="explosion",
    steps=60,
    bug_step=1,
    world_size=1,
    signals=["gradient before backward() is not zero", "grad norm grows"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(37)
    model = ConvNet()
    opt = sgd(model.parameters(), 0.1)

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        if healthy:
            opt.zero_grad()
        before = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
        loss.backward()
        run.extra["carried"] = any(b is not None and float(b.norm()) > 0 for b in before)
        opt.step()
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return run.extra["carried"]
