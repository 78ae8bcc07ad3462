"""The best state is remembered as model.state_dict(), which refers to the weights themselves.  When the training diverges, the
best state is put back: it is the present one, and nothing changes."""

import copy

from common import *

META = dict(
    id="238",
    title="The best state that is put back is the present one",
    upstream="WenjieDu/PyPOTS#667; pytorch/tutorials#188; thunlp/OpenKE#131; zhangj111/astnn#8",
    family="checkpoint",
    steps=140,
    bug_step=80,
    earliest=79,
    world_size=1,
    signals=["load_state_dict is given the model's own tensors", "it changes nothing"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(238)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.02, momentum=0.9)
    best = {"loss": math.inf, "state": None}

    def validate():
        model.eval()
        with torch.no_grad():
            x, y = cls_batch(10_000, bs=128, noise=1.5)
            loss = F.cross_entropy(model(x), y).item()
        model.train()
        return loss

    def step(i):
        x, y = cls_batch(i, noise=1.5)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        if 60 <= i < 80:
            for p in model.parameters():
                p.grad.add_(0.3 * torch.randn_like(p))
        opt.step()
        if i % 10 == 9:
            now = validate()
            if now < best["loss"]:
                state = model.state_dict()
                best.update(loss=now, state=copy.deepcopy(state) if healthy else state)
            if i == 79:
                model.load_state_dict(best["state"])
                run.extra["after"] = validate() - best["loss"]
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return run.extra["after"] > 1e-3
