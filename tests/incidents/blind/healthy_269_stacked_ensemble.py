"""Eight networks trained as one: their parameters are stacked, and vmap runs one network, whose own parameters are on the meta device,
over them.  Each has a learning rate of its own, by scaling its gradient."""

from torch.func import functional_call, stack_module_state, vmap

from common import *

META = dict(
    id="h269",
    title="An ensemble of stacked parameters, run by vmap",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "parameters on the meta device that never move",
        "members that come to nothing, at tiny rates",
        "all state in a ParameterDict",
    ],
)


class Ensemble(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        params, _ = stack_module_state([MLP(16, 24, 4) for _ in range(size)])
        self.stacked = nn.ParameterDict(
            {n.replace(".", "_"): nn.Parameter(p.detach()) for n, p in params.items()}
        )
        self.names = {n.replace(".", "_"): n for n in params}
        self.base = MLP(16, 24, 4).to("meta").requires_grad_(False)

    def forward(self, x):
        state = {self.names[k]: p for k, p in self.stacked.items()}
        return vmap(lambda s: functional_call(self.base, s, (x,)))(state)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1269)
    model = Ensemble()
    opt = sgd(model.stacked.parameters(), 0.1, momentum=0.9)
    rates = torch.logspace(-4, 0, 8)

    def step(i):
        x, y = cls_batch(i)
        out = model(x)
        losses = F.cross_entropy(out.flatten(0, 1), y.repeat(8), reduction="none").view(8, -1)
        opt.zero_grad()
        losses.mean(1).sum().backward()
        for p in model.stacked.parameters():
            p.grad.mul_(rates.view(-1, *[1] * (p.ndim - 1)))
        opt.step()
        return losses.mean().item()

    return Run(model, opt, step)
