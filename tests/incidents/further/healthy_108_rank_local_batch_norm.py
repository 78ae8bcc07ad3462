"""DDP with broadcast_buffers=False: each rank keeps the running statistics of its own batches, as many recipes do (rank 0's
are saved); accumulation over two microbatches under no_sync."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="h108",
    title="Two DDP ranks with rank-local BatchNorm statistics",
    upstream="-",
    family="healthy",
    steps=50,
    bug_step=None,
    world_size=2,
    tempts=["buffers differ between ranks for ever", "gradients of one rank in no_sync"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1108)
    model = DDP(MLP(16, 32, 4, bn=True), broadcast_buffers=False)
    opt = sgd(model.parameters(), 0.1, momentum=0.9)

    def step(i):
        opt.zero_grad()
        x, y = cls_batch(2 * i * world_size + rank, noise=1.0)
        with model.no_sync():
            (F.cross_entropy(model(x), y) / 2).backward()
        x, y = cls_batch((2 * i + 1) * world_size + rank, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        (loss / 2).backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})
