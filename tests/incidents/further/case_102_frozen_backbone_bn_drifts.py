"""A pre-trained backbone is frozen by requires_grad=False only; model.train() at the start of each epoch leaves its
BatchNorm in train mode, and the running statistics drift to the new data.  Fix: backbone.eval() after train()."""

from common import *

META = dict(
    id="102",
    title="Frozen backbone's BatchNorm statistics drift: requires_grad is off, train mode is on",
    upstream="lightly-ai/lightly#1438; ultralytics/ultralytics#8753; poppinace/indexnet_matting#35",
    family="bn",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["running_mean moves in a module whose parameters are all frozen"],
    loss_visible=False,
)


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.backbone.features(x))


def pretrained_backbone():
    seed_all(2)
    net = ConvNet()
    opt = sgd(net.parameters(), 0.05, momentum=0.9)
    for i in range(25):
        x, y = img_batch(i, seed=5)
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return net


def build(healthy, rank=0, world_size=1):
    backbone = pretrained_backbone()
    seed_all(102)
    model = Classifier(backbone)
    opt = sgd(model.head.parameters(), 0.1)
    start = clone_state(backbone)

    def step(i):
        model.train()
        if healthy:
            model.backbone.eval()
        x, y = img_batch(i, seed=1)
        loss = F.cross_entropy(model(0.5 * x - 1.0), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    now, start = clone_state(run.model.backbone), run.extra["start"]
    return not torch.equal(now["bn1.running_mean"], start["bn1.running_mean"])
