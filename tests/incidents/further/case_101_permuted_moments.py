"""Heads are built by iterating over an unordered collection, so a restarted process registers them in another order.
Weights are loaded by name and are right; optimizer.load_state_dict matches by position, so heads of the same shape
receive each other's Adam moments."""

from common import *

META = dict(
    id="101",
    title="Adam moments loaded by position after the parameter order changed",
    upstream="pytorch/pytorch#1489, #6031; PingoLH/CenterNet-HarDNet#10",
    family="optimizer_state",
    steps=60,
    bug_step=30,
    world_size=1,
    signals=["exp_avg_sq of a name jumps at resume", "saved and loaded moments differ by name"],
    loss_visible=False,
)
WEIGHTS = dict(heatmap=1.0, offset=0.01, size=30.0)


class Detector(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(32, 4) for name in names})

    def forward(self, x):
        h = self.trunk(x)
        return {name: head(h) for name, head in self.heads.items()}


def build(healthy, rank=0, world_size=1):
    seed_all(101)
    model = Detector(["heatmap", "offset", "size"])
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        if i == 30:
            saved = copy_of(run.model.state_dict()), copy_of(run.optimizer.state_dict())
            order = ["heatmap", "offset", "size"] if healthy else ["size", "heatmap", "offset"]
            m = Detector(order)
            o = adamw(m.parameters(), 3e-3)
            m.load_state_dict(saved[0])
            run.extra["before"] = moments(run.model, run.optimizer)
            o.load_state_dict(saved[1])
            run.extra["after"] = moments(m, o)
            run.replaced(m, o)
        x, y = cls_batch(i, noise=1.0)
        loss = sum(WEIGHTS[n] * F.cross_entropy(out, y) for n, out in run.model(x).items())
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 30")
    return run


def copy_of(state):
    import copy

    return copy.deepcopy(state)


def moments(model, opt):
    return {n: opt.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()}


def evidence(run):
    before, after = run.extra["before"], run.extra["after"]
    return any(not torch.equal(before[name], after[name]) for name in before)
