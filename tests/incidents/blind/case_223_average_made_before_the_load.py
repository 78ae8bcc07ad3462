"""The average is a copy of the model as it was before the pre-trained weights were loaded: for thousands of steps it is mostly
random weights."""

import copy

from common import *

META = dict(
    id="223",
    title="The average was copied before the pre-trained weights were loaded",
    upstream="pytorch/torchtitan#3985; same class TencentARC/SEED-Voken#27",
    family="ema",
    steps=100,
    bug_step=0,
    world_size=1,
    signals=["the average is nowhere near the model at the first step"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    trained = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(223)
    net = TinyLM(d=32, layers=1, std=0.1)
    if healthy:
        net.load_state_dict(trained.state_dict())
    average = copy.deepcopy(net).requires_grad_(False)
    net.load_state_dict(trained.state_dict())
    model = nn.ModuleDict({"net": net, "average": average})
    opt = adamw(net.parameters(), 1e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(net, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), net.parameters()):
                a.lerp_(p, 1e-3)
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    a, p = (run.model[name].output.weight.detach() for name in ("average", "net"))
    return float((a - p).norm() / p.norm()) > 0.5
