"""Activations of a block with BatchNorm are computed again in the backward pass.  Running statistics take each batch twice; values
and gradients are those of a run without."""

from torch.utils.checkpoint import checkpoint

from common import *

META = dict(
    id="241",
    title="Running statistics take every batch twice: forward and recomputation",
    upstream="pytorch/pytorch#96136; Tencent/YOLO-Master#262; m2lines/Samudra#572; deepinsight/insightface#2053",
    family="bn",
    steps=120,
    bug_step=0,
    world_size=1,
    signals=["num_batches_tracked grows by 2 a step in some layers, by 1 in others"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(241)
    model = ConvNet(c=8)
    opt = adamw(model.parameters(), 3e-3)

    def first(x):
        again = run.extra.get("again", False)
        run.extra["again"] = not again
        count, momentum = model.bn1.num_batches_tracked.clone(), model.bn1.momentum
        quiet = healthy and again
        try:
            if quiet:
                model.bn1.momentum = 0.0
            return F.relu(model.bn1(model.conv1(x)))
        finally:  # the recomputation ends with an exception, when all is there that is needed
            model.bn1.momentum = momentum
            if quiet:
                model.bn1.num_batches_tracked.copy_(count)

    def step(i):
        x, y = img_batch(i)
        h = checkpoint(first, x, use_reentrant=False)
        h = F.relu(model.bn2(model.conv2(h))).mean((2, 3))
        loss = F.cross_entropy(model.fc(model.drop(h)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return int(run.model.bn1.num_batches_tracked) > int(run.model.bn2.num_batches_tracked)
