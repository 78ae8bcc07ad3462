"""validate() calls model.eval() and nothing calls model.train() until the next epoch: after the first validation the
BatchNorm statistics are frozen and dropout is off for the rest of training."""

from common import *

META = dict(
    id="31",
    title="Model left in eval mode after the first in-epoch validation",
    upstream="fartashf/vsepp#4",
    family="bn",
    steps=60,
    bug_step=20,
    world_size=1,
    signals=["training flag False during optimizer steps", "num_batches_tracked stops"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(31)
    model = ConvNet()
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def validate(i):
        model.eval()
        with torch.no_grad():
            x, y = img_batch(10_000 + i)
            model(x)
        if healthy:
            model.train()

    def step(i):
        if i == 0:
            model.train()
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 0 and i:
            validate(i)
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return (not run.model.training) and int(run.model.bn1.num_batches_tracked) == 21
