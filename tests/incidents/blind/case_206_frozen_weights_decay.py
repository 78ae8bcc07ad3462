"""Muon fills missing gradients with zeros and then applies weight decay to every parameter it holds: a backbone frozen by
requires_grad shrinks in every step."""

from common import *

META = dict(
    id="206",
    title="Weight decay is applied to frozen parameters that have no gradient",
    upstream="KellerJordan/Muon#54; same class open-mmlab/OpenPCDet#845, facebookresearch/fairseq#4702",
    family="frozen_moves",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=[
        "parameters with requires_grad=False move",
        "norm shrinks by the same factor every step",
    ],
    loss_visible=False,
)


class OrthogonalMomentum(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised for matrices (Newton-Schulz), as in Muon."""

    def __init__(self, params, lr, weight_decay, skip_missing):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=0.9))
        self.skip_missing = skip_missing

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    if self.skip_missing:
                        continue
                    p.grad = torch.zeros_like(p)
                s = self.state[p]
                if not s:
                    s["momentum_buffer"] = torch.zeros_like(p)
                s["momentum_buffer"].lerp_(p.grad, 0.1)
                update = s["momentum_buffer"]
                if p.ndim == 2:
                    update = update / (update.norm() + 1e-7)
                    for _ in range(5):
                        a = update @ update.T
                        update = 1.5 * update - 0.5 * a @ update
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def build(healthy, rank=0, world_size=1):
    seed_all(206)
    model = MLP(16, 32, 4, depth=3)
    for p in model.body[:2].parameters():
        p.requires_grad_(False)
    opt = OrthogonalMomentum(model.parameters(), 0.02, 0.1, skip_missing=healthy)
    start = clone_state(model)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    return not torch.equal(run.model.body[0].weight, run.extra["start"]["body.0.weight"])
