"""nn.Parameter(...).to(...) is a plain tensor with a history, no parameter: the gate of a mixture is neither trained, nor
moved, nor saved.  Fix: no .to() after nn.Parameter."""

from common import *

META = dict(
    id="207",
    title="A gate made by nn.Parameter(...).to(...) is no parameter",
    upstream="pytorch/pytorch#17484, #9303; davidmrau/mixture-of-experts#12; pytorch/pytorch#20089",
    family="coverage",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["a tensor that needs a gradient hangs on a module unregistered"],
    loss_visible=False,
)


class Mixture(nn.Module):
    def __init__(self, healthy, d=16, experts=4):
        super().__init__()
        gate = 0.1 * torch.randn(d, experts, dtype=torch.float64)
        self.w_gate = (
            nn.Parameter(gate.float()) if healthy else nn.Parameter(gate).to(torch.float32)
        )
        self.experts = nn.ModuleList(MLP(d, 16, 4, depth=1) for _ in range(experts))

    def forward(self, x):
        gates = (x @ self.w_gate).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return (gates[..., None] * outputs).sum(1)


def build(healthy, rank=0, world_size=1):
    seed_all(207)
    model = Mixture(healthy)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return "w_gate" not in dict(run.model.named_parameters())
