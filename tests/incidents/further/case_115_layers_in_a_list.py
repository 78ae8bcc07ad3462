"""Hidden layers are kept in a plain Python list: they take part in the forward pass and get gradients, but
parameters(), state_dict(), train() and the optimizer do not know them.  Fix: nn.ModuleList."""

from common import *

META = dict(
    id="115",
    title="Layers in a plain list are neither trained nor saved",
    upstream="pytorch/pytorch#59925, #715; ikostrikov/pytorch-meta-optimizer#11",
    family="coverage",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=[
        "modules reachable from the model that are not registered",
        "their gradients grow for ever",
    ],
    loss_visible=True,
)


class Net(nn.Module):
    def __init__(self, healthy):
        super().__init__()
        self.inlet = nn.Linear(16, 32)
        layers = [nn.Linear(32, 32) for _ in range(2)]
        self.hidden = nn.ModuleList(layers) if healthy else layers
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = F.relu(self.inlet(x))
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)


def build(healthy, rank=0, world_size=1):
    seed_all(115)
    model = Net(healthy)
    opt = adamw(model.parameters(), 3e-3)
    start = [layer.weight.detach().clone() for layer in model.hidden]

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    pairs = zip(run.model.hidden, run.extra["start"])
    return all(torch.equal(layer.weight, start) for layer, start in pairs)
