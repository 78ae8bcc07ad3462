"""Each round begins with a network drawn anew.  The optimizer of the round before is kept: it holds the old network's parameters,
and the new one is never trained."""

from common import *

META = dict(
    id="242",
    title="A network drawn anew is trained with the optimizer of the old one",
    upstream="sbi-dev/sbi#200; kitzeslab/opensoundscape#351",
    family="coverage",
    steps=100,
    bug_step=40,
    world_size=1,
    signals=["no parameter of the model is in the optimizer", "nothing moves"],
    loss_visible=True,
)


class Estimator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4)

    def forward(self, x):
        return self.net(x)


def build(healthy, rank=0, world_size=1):
    seed_all(242)
    model = Estimator()
    run = Run(model, adamw(model.parameters(), 3e-3), None)

    def step(i):
        if i == 40:
            model.net = MLP(16, 32, 4)
            run.extra["first"] = model.net.head.weight.detach().clone()
            if healthy:
                run.replaced(optimizer=adamw(model.parameters(), 3e-3))
        x, y = cls_batch(i)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run.step = step
    return run


def evidence(run):
    return torch.equal(run.model.net.head.weight, run.extra["first"])
