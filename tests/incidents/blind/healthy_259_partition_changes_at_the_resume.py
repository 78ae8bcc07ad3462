"""Two ranks, each holds the optimizer state of half of the parameters and sends what it updated to the other.  After the restart the
halves are others: each rank begins with moments that the other one had."""

import torch.distributed as dist
from common import *

META = dict(
    id="h259",
    title="Sharded optimizer on two ranks, parted in another way after the resume",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=2,
    tempts=[
        "parameters that are in no group of this rank's optimizer",
        "other ones after the resume",
        "moments come from another rank",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    def make(turn):
        model = MLP(16, 32, 4, depth=3)
        named = list(model.named_parameters())
        owner = {n: (k + turn) % world_size for k, (n, _) in enumerate(named)}
        mine = [(n, p) for n, p in named if owner[n] == rank]
        return model, adamw([p for _, p in mine], 3e-3), (owner, [n for n, _ in mine])

    def step(i):
        if i == 40:
            states = run.optimizer.state_dict()["state"]
            parts = {n: states[k] for k, n in enumerate(run.extra["owned"][1])}
            gathered = [None] * world_size
            dist.all_gather_object(gathered, parts)
            moments = {n: s for part in gathered for n, s in part.items()}
            weights = clone_state(run.model)
            model, opt, run.extra["owned"] = make(1)
            run.replaced(model, opt)
            model.load_state_dict(weights)
            blob = opt.state_dict()
            blob["state"] = {k: moments[n] for k, n in enumerate(run.extra["owned"][1])}
            opt.load_state_dict(blob)
        model = run.model
        x, y = cls_batch(i * world_size + rank)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world_size
        run.optimizer.step()
        for n, p in model.named_parameters():
            dist.broadcast(p.data, run.extra["owned"][0][n])
        return loss.item()

    seed_all(1259)
    model, opt, owned = make(0)
    run = Run(model, opt, step, extra={"owned": owned})
    return run
