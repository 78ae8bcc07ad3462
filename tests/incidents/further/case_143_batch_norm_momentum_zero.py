"""BatchNorm2d(momentum=0): in PyTorch that is the share of the new batch, so running statistics stay 0 and 1 for ever and
evaluation uses them.  (The converse mistake, 0.99, follows the last batch alone.)"""

from common import *

META = dict(
    id="143",
    title="BatchNorm momentum 0: running statistics never leave 0 and 1",
    upstream="svishwa/crowdcount-mcnn#64; the converse: pytorch/vision#8250, eriklindernoren/PyTorch-YOLOv3#230",
    family="bn",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["num_batches_tracked grows, running_mean stays exactly 0"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(143)
    model = ConvNet(norm=lambda c: nn.BatchNorm2d(c, momentum=0.1 if healthy else 0.0))
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return bool((run.model.bn1.running_mean == 0).all())
