"""A wrapper takes over the inner optimizer's groups by reference.  Loading a state dict into the inner one, as a launcher does to
move the state to its device, gives it new groups: the schedule warms up those of the wrapper, and the inner one stays at 0."""

import warnings

from common import *

META = dict(
    id="217",
    title="The schedule warms up a wrapper's groups, the optimizer within stays at 0",
    upstream="microsoft/dp-transformers#43; same effect luca-medeiros/lightning-sam#16",
    family="schedule",
    steps=80,
    bug_step=1,
    earliest=0,
    world_size=1,
    signals=["learning rate in use is 0", "the shown learning rate is not", "no parameter moves"],
    loss_visible=True,
)


class Clipping(torch.optim.Optimizer):
    """Around another optimizer, as Opacus' DPOptimizer."""

    def __init__(self, original):
        self.original_optimizer = original
        self.param_groups = original.param_groups
        self.defaults = original.defaults
        self.state = original.state

    def zero_grad(self, set_to_none=True):
        self.original_optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        return self.original_optimizer.step()


def build(healthy, rank=0, world_size=1):
    seed_all(217)
    model = TinyLM(d=32, layers=1, std=0.1)
    inner = adamw(model.parameters(), 3e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(inner, lambda s: min(1.0, s / 10))
    outer = Clipping(inner)
    inner.load_state_dict(inner.state_dict())
    if healthy:
        outer.param_groups = inner.param_groups
    warm_up.optimizer = outer

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        outer.zero_grad()
        loss.backward()
        outer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warm_up.step()
        return loss.item()

    return Run(model, outer, step, extra={"inner": inner})


def evidence(run):
    return run.extra["inner"].param_groups[0]["lr"] == 0
