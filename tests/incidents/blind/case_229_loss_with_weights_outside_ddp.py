"""The loss has class prototypes of its own (ArcFace).  The network is wrapped in DDP, the loss is not: each rank trains its own
prototypes."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="229",
    title="The loss has weights of its own and is not wrapped in DDP",
    upstream="KevinMusgrave/pytorch-metric-learning#710, #218",
    family="divergence",
    steps=60,
    bug_step=0,
    world_size=2,
    signals=["some parameters differ between ranks from the first step on, all others agree"],
    loss_visible=False,
)


class ArcFace(nn.Module):
    def __init__(self, classes, d, margin=0.2, scale=8.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, d))
        self.margin, self.scale = margin, scale

    def forward(self, h, y):
        cosine = F.normalize(h) @ F.normalize(self.weight).T
        angle = torch.acos(cosine.clamp(-0.999, 0.999))
        hot = F.one_hot(y, len(self.weight)).bool()
        return F.cross_entropy(
            self.scale * torch.cos(torch.where(hot, angle + self.margin, angle)), y
        )


def build(healthy, rank=0, world_size=1):
    seed_all(229)
    net, loss_fn = DDP(MLP(16, 32, 8)), ArcFace(4, 8)
    if healthy:
        loss_fn = DDP(loss_fn)
    model = nn.ModuleDict({"net": net, "loss": loss_fn})
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i * world_size + rank, noise=1.0)
        loss = loss_fn(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(list(run.model["loss"].parameters()), *run.extra["rank"]) > 1e-4
