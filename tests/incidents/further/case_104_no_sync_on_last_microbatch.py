"""Accumulation under no_sync with the condition one off: `batch % accum == 0` synchronises the first microbatch and
suppresses it on the one that ends with optimizer.step(), so each rank steps with partly local gradients.
Fix: `(batch + 1) % accum == 0`."""

from contextlib import nullcontext

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="104",
    title="DDP no_sync on the wrong microbatch: ranks step with local gradients",
    upstream="modelscope/FunASR#3472; same effect pytorch/pytorch#69031",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["gradients differ between ranks at the step", "parameters part"],
    loss_visible=False,
)
ACCUM = 2


def build(healthy, rank=0, world_size=1):
    seed_all(104)
    model = DDP(MLP(16, 32, 4))
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        opt.zero_grad()
        total = 0.0
        for j in range(ACCUM):
            is_synced = (j + 1) % ACCUM == 0 if healthy else j % ACCUM == 0
            x, y = cls_batch((i * ACCUM + j) * world_size + rank, noise=1.0)
            with nullcontext() if is_synced else model.no_sync():
                loss = F.cross_entropy(model(x), y) / ACCUM
                loss.backward()
            total += loss.item()
        opt.step()
        return total

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(run.model, *run.extra["rank"]) > 1e-5
