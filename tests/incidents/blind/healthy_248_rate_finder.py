"""The learning rate is sought first: it grows tenfold every 11 steps until the loss is four times its best, as finders do; then the
weights and the optimizer are set back, and the training begins."""

import copy

from common import *

META = dict(
    id="h248",
    title="A learning rate finder, and the training that follows it",
    upstream="-",
    family="healthy",
    steps=280,
    bug_step=None,
    world_size=1,
    tempts=[
        "the loss explodes",
        "weights and moments go back to the first ones",
        "learning rate falls by a thousand",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1248)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 1e-7)
    first = copy.deepcopy((model.state_dict(), opt.state_dict()))
    search = {"best": math.inf, "goes_on": True}

    def step(i):
        if search["goes_on"]:
            opt.param_groups[0]["lr"] = 1e-7 * 10 ** (i / 11)
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        search["best"] = min(search["best"], loss.item())
        if search["goes_on"] and loss.item() > 4 * search["best"]:
            search["goes_on"] = False
            model.load_state_dict(first[0])
            opt.load_state_dict(copy.deepcopy(first[1]))
            opt.param_groups[0]["lr"] = 3e-3
        return loss.item()

    return Run(model, opt, step)
