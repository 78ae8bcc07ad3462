"""RL trainers wrapped the policy in DDP but ran the loss-bearing forward through `.module`; the reducer is never armed,
gradients stay local and replicas drift apart.  Fix: call the wrapper."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="06",
    title="Forward through ddp.module: gradients never all-reduced, replicas diverge",
    upstream="jingyaogong/minimind#853 (fix #854); also huggingface/trl#7245, moojink/openvla-oft#160",
    family="divergence",
    steps=60,
    bug_step=0,
    world_size=2,
    signals=["parameters differ between ranks", "gradients differ between ranks"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(6)
    model = DDP(MLP(16, 32, 4))
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        x, y = cls_batch(i * world_size + rank)
        net = model if healthy else model.module
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(run.model, *run.extra["rank"]) > 1e-5
