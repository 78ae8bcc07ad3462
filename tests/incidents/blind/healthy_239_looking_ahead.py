"""Lookahead around RAdam: every five steps the weights go half the way back to slow weights held by the optimizer; gradients are
centred by hooks and noise is added to them; weights are cut to a box."""

from common import *

META = dict(
    id="h239",
    title="Lookahead: half the way back every five steps, gradient noise, clipped weights",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "an optimizer in an optimizer",
        "weights that go back every five steps",
        "elements that stand at their bound",
    ],
)


class Lookahead(torch.optim.Optimizer):
    def __init__(self, base, k=5, alpha=0.5):
        self.base, self.k, self.alpha, self.count = base, k, alpha, 0
        super().__init__(base.param_groups, {})
        self.param_groups = base.param_groups
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["slow"] = p.detach().clone()

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()
        self.count += 1
        if self.count % self.k == 0:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["slow"].lerp_(p, self.alpha)
                    p.copy_(self.state[p]["slow"])


def build(healthy=True, rank=0, world_size=1):
    seed_all(1239)
    model = MLP(16, 64, 4, depth=3)
    opt = Lookahead(torch.optim.RAdam(model.parameters(), 5e-3, foreach=False))
    for p in model.parameters():
        if p.ndim > 1:
            p.register_hook(lambda g: g - g.mean(1, keepdim=True))

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.grad.add_(torch.randn(p.shape, generator=gen(1239, i)) * 0.01 / (1 + i) ** 0.55)
        opt.step()
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.25, 0.25)
        return loss.item()

    return Run(model, opt, step)
