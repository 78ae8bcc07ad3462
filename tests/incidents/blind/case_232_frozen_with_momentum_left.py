"""A part is frozen in the middle of the training by requires_grad alone.  Its gradients stay tensors of zeros (zero_grad with
set_to_none=False), so that Adam goes on moving it: by the momentum that is left, and by weight decay for ever."""

from common import *

META = dict(
    id="232",
    title="Frozen in the middle of the training, and moved on by momentum and decay",
    upstream="facebookresearch/fairseq#4702; discuss.pytorch.org/t/58156; code-examples.net/en/q/4c0bc7c",
    family="frozen_moves",
    steps=90,
    bug_step=30,
    earliest=29,
    world_size=1,
    signals=["requires_grad is off, the values move on", "their gradient is exactly 0"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(232)
    model = MLP(16, 32, 4, depth=3)
    opt = adamw(model.parameters(), 3e-3, wd=0.1)
    frozen = list(model.body[:4].parameters())
    at = {}

    def step(i):
        if i == 30:
            for p in frozen:
                p.requires_grad_(False)
                if healthy:
                    p.grad = None
            at["weight"] = frozen[0].detach().clone()
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad(set_to_none=False)
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"at": at})


def evidence(run):
    return not torch.equal(run.model.body[0].weight, run.extra["at"]["weight"])
