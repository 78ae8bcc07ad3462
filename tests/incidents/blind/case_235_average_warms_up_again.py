"""The average's decay warms up with its number of updates, and that number is a plain integer which no checkpoint holds.  After
the resume it is 0: the first update makes the average nearly the raw weights, and what was averaged is lost."""

import copy

from common import *

META = dict(
    id="235",
    title="The average's update count is not saved: its warm-up starts over at the resume",
    upstream="lightly-ai/lightly-train#892; ai2cm/ace#819; m2lines/Samudra#282",
    family="ema",
    steps=110,
    bug_step=70,
    world_size=1,
    signals=["the average jumps onto the weights at the first step after the resume"],
    loss_visible=False,
)


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def follow(self):
        self.updates += 1
        decay = 0.98 * (1 - math.exp(-self.updates / 20))
        for a, p in zip(self.ema.parameters(), self.net.parameters()):
            a.lerp_(p, 1 - decay)


def build(healthy, rank=0, world_size=1):
    def make():
        model = Averaged()
        return model, sgd(model.net.parameters(), 0.02, momentum=0.9)

    def step(i):
        if i == 70:
            path = tmp_path("last.pt")
            kept = run.model.updates
            blob = {"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}
            torch.save(blob, path)
            run.replaced(*make())
            blob = torch.load(path)
            run.model.load_state_dict(blob["model"])
            run.optimizer.load_state_dict(blob["optim"])
            if healthy:
                run.model.updates = kept
        x, y = cls_batch(i, bs=8, noise=1.5)
        loss = F.cross_entropy(run.model.net(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.model.follow()
        return loss.item()

    seed_all(235)
    run = Run(*make(), step)
    return run


def evidence(run):
    return run.model.updates < 100
