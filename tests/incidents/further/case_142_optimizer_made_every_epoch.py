"""train_epoch() makes its own Adam: at each epoch moments and step counter begin at zero again, in the same process and
with the same parameters."""

from common import *

META = dict(
    id="142",
    title="Adam is made anew in every epoch: moments are lost each time",
    upstream="alan-turing-institute/deepsensor#47; gaohongkui/GlobalPointer_pytorch#7; pythoncymetric/cymetric#4",
    family="optimizer_state",
    steps=80,
    bug_step=20,
    world_size=1,
    signals=[
        "the optimizer's step counter goes back every epoch",
        "another optimizer object steps",
    ],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(142)
    model = MLP(16, 32, 4)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        if i % 20 == 0 and i and not healthy:
            run.optimizer = adamw(model.parameters(), 3e-3)
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return int(next(iter(run.optimizer.state.values()))["step"]) < META["steps"]
