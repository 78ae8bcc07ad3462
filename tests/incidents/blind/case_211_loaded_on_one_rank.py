"""DDP is made first, and broadcasts fresh weights.  Then the checkpoint is found by rank 0 alone (a local file, or a wrong
indentation): the other rank goes on from the fresh weights, and both take the same averaged gradients."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="211",
    title="Only rank 0 loads the checkpoint, after DDP was made",
    upstream="facebookresearch/detectron2#1732; allenai/molmo#33",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["parameters differ between ranks from the first step on"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    trained = pretrained_lm(steps=40, d=32, layers=1, std=0.1)
    seed_all(211)
    path = tmp_path(f"last_{rank}.pt")
    torch.save(trained.state_dict(), path)
    model = DDP(TinyLM(d=32, layers=1, std=0.1))
    if healthy or rank == 0:
        model.module.load_state_dict(torch.load(path))
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        x, y = lm_batch(i * world_size + rank, seed=100)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(list(run.model.parameters()), *run.extra["rank"]) > 1e-3
