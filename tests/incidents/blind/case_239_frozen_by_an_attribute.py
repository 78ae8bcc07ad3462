"""The pre-trained layers are to be frozen, by requires_grad = False on the module.  That makes an attribute of the module which
nobody reads; its parameters are trained on."""

from common import *

META = dict(
    id="239",
    title="requires_grad = False on a module freezes nothing",
    upstream="CSCYQJ/MICCAI23-ProtoContra-SFDA#18; catalyst-team/catalyst#79",
    family="frozen_moves",
    steps=100,
    bug_step=0,
    world_size=1,
    signals=["a module has requires_grad = False as an attribute, its parameters require one"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(239)
    model = MLP(16, 32, 4, depth=3)
    if healthy:
        model.body.requires_grad_(False)
    else:
        model.body.requires_grad = False
    opt = adamw([p for p in model.parameters() if p.requires_grad], 2e-3)

    def step(i):
        x, y = cls_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"first": model.body[0].weight.detach().clone()})


def evidence(run):
    return float((run.model.body[0].weight.detach() - run.extra["first"]).abs().max()) > 0
