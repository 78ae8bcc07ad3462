"""The decay of an average should be min(decay, (1 + n) / (10 + n)).  What was computed for one step is stored as the decay itself,
as one minus the decay: it settles at a half, and the average is hardly one."""

import copy

from common import *

META = dict(
    id="236",
    title="The average's decay is overwritten by its own warm-up and settles at a half",
    upstream="huggingface/diffusers#1864",
    family="ema",
    steps=200,
    bug_step=8,
    world_size=1,
    signals=["the average follows within two steps, for ever"],
    loss_visible=False,
)


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)


def build(healthy, rank=0, world_size=1):
    seed_all(236)
    model = Averaged()
    opt = sgd(model.net.parameters(), 0.1, momentum=0.9)
    state = {"decay": 0.99, "n": 0}

    def step(i):
        x, y = cls_batch(i, noise=1.2)
        loss = F.cross_entropy(model.net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        warm = (1 + state["n"]) / (10 + state["n"])
        state["n"] += 1
        rate = 1 - min(state["decay"], warm)
        if not healthy:
            state["decay"] = rate
        with torch.no_grad():
            for a, p in zip(model.ema.parameters(), model.net.parameters()):
                a.lerp_(p, rate)
        return loss.item()

    return Run(model, opt, step, extra={"state": state})


def evidence(run):
    return run.extra["state"]["decay"] < 0.9
