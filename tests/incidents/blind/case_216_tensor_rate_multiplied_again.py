"""The learning rate is a tensor, as compiled optimizers want it.  The schedule writes lr in place, and initial_lr is the same
tensor: each factor is applied to what the last one left."""

from common import *

META = dict(
    id="216",
    title="A tensor learning rate is its own initial value: factors multiply up",
    upstream="pytorch/pytorch#126854, #162359, #163103",
    family="schedule",
    steps=150,
    bug_step=12,
    earliest=0,
    world_size=1,
    signals=["the learning rate falls to nothing early in the training", "loss stands still"],
    loss_visible=True,
)


class Schedule:
    """LambdaLR of torch 2.4's nightly builds."""

    def __init__(self, optimizer, factor, copied):
        self.optimizer, self.factor, self.at = optimizer, factor, 0
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"].clone() if copied else group["lr"]
        self.write()

    def write(self):
        for group in self.optimizer.param_groups:
            group["lr"].fill_(group["initial_lr"] * self.factor(self.at))

    def step(self):
        self.at += 1
        self.write()


def build(healthy, rank=0, world_size=1):
    seed_all(216)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), torch.tensor(3e-3))
    schedule = Schedule(opt, lambda s: 1.0 if s < 10 else 1.0 - 0.9 * s / 150, copied=healthy)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.optimizer.param_groups[0]["lr"]) < 1e-6
