"""The sampler does not know the rank: each rank draws the same batches.  Gradients are averaged over identical copies,
two GPUs do the work of one.  Fix: DistributedSampler / pass rank and world size to the sampler."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="103",
    title="Every rank trains on the same batches: the sampler is not told the rank",
    upstream="k2-fsa/icefall#1616; Lightning-AI/pytorch-lightning#7813; openspeech-team/openspeech#149",
    family="same_data",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["loss bit-identical on all ranks", "local gradients identical before the reduction"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(103)
    model = DDP(MLP(16, 32, 4))
    opt = adamw(model.parameters(), 5e-3)
    seen = []

    def step(i):
        x, y = cls_batch(i * world_size + rank if healthy else i, noise=1.0)
        seen.append(float(x.sum()))
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size), "seen": seen})


def evidence(run):
    return dist_max_diff([torch.tensor(run.extra["seen"])], *run.extra["rank"]) == 0.0
