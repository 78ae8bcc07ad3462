"""Weight norm, spectral norm and orthogonal layers by torch's parametrizations; at step 150 they are taken off, the weights become
parameters of their own, and a new optimizer goes on with these."""

import torch.nn.utils.parametrizations as parametrizations
from torch.nn.utils import parametrize

from common import *

META = dict(
    id="h265",
    title="Parametrizations that are taken off in the middle of the training",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights that are no parameters",
        "parameters that vanish, and others in their place",
        "buffers that vanish",
        "an optimizer made anew",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1265)
    model = MLP(16, 32, 4, depth=3)
    parametrizations.weight_norm(model.body[0])
    parametrizations.orthogonal(model.body[2])
    parametrizations.spectral_norm(model.body[4])
    optimizers = [adamw(model.parameters(), 3e-3)]

    def step(i):
        if i == 150:
            for k in (0, 2, 4):
                parametrize.remove_parametrizations(model.body[k], "weight")
            optimizers[0] = run.optimizer = adamw(model.parameters(), 1e-3)
        opt = optimizers[0]
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    run = Run(model, optimizers[0], step, extra={"optimizers": optimizers})
    return run
