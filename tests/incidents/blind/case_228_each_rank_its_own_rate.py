"""Each rank's plateau schedule is given the loss of its own batches.  One rank comes to its plateau before the other: from then on
the same gradients are taken with different learning rates."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="228",
    title="Each rank's plateau schedule sees its own loss: learning rates part",
    upstream="lucidrains/DALLE-pytorch#268; ludwig-ai/ludwig#3049; rmchurch/disruptcnn#3",
    family="divergence",
    steps=120,
    bug_step=24,
    earliest=7,
    world_size=2,
    signals=["learning rates differ between ranks", "then parameters do"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    import torch.distributed as dist

    seed_all(228)
    model = DDP(MLP(16, 32, 4))
    opt = sgd(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=1)
    epoch = []

    def step(i):
        x, y = cls_batch(i * world_size + rank, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        epoch.append(loss.detach())
        if len(epoch) == 8:
            mean = torch.stack(epoch).mean()
            if healthy:
                dist.all_reduce(mean)
                mean = mean / world_size
            schedule.step(mean.item())
            epoch.clear()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(list(run.model.parameters()), *run.extra["rank"]) > 1e-5
