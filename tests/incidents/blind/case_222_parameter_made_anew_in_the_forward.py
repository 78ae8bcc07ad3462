"""A weight is to stay non-negative; the forward wraps its clamped values in a new nn.Parameter each time.  The optimizer steps
the first one for ever."""

from common import *

META = dict(
    id="222",
    title="The forward makes a new parameter of its weight each time",
    upstream="benedekrozemberczki/pytorch_geometric_temporal#80; same class openvinotoolkit/nncf#327",
    family="identity",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=[
        "another object in the slot after every step",
        "in no optimizer",
        "values never change",
    ],
    loss_visible=False,
)


class Monotone(nn.Module):
    def __init__(self, d_in, d_out, in_place):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(d_out, d_in) / d_in)
        self.bias = nn.Parameter(torch.zeros(d_out))
        self.in_place = in_place

    def forward(self, x):
        if self.in_place:
            with torch.no_grad():
                self.weight.clamp_(min=0)
        else:
            self.weight = nn.Parameter(self.weight.detach().clamp(min=0))
        return F.linear(x, self.weight, self.bias)


def build(healthy, rank=0, world_size=1):
    seed_all(222)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), Monotone(32, 4, in_place=healthy))
    opt = adamw(model.parameters(), 3e-3)
    first = model[2].weight

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"first": first})


def evidence(run):
    return run.model[2].weight is not run.extra["first"]
