"""The loss of each microbatch is not divided by the number of accumulation steps: gradients are eight times too large, and
with SGD so is the learning rate."""

from common import *

META = dict(
    id="127",
    title="Loss not divided by the accumulation steps",
    upstream="hirofumi0810/neural_sp#168; agokrani/distillKitPlus#5; ApolloResearch/e2e_sae#70",
    family="gradient_scale",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["gradient norms eight times the reference's"],
    loss_visible=False,
)
ACCUM = 8


def build(healthy, rank=0, world_size=1):
    seed_all(127)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def step(i):
        total = 0.0
        opt.zero_grad()
        for j in range(ACCUM):
            x, y = cls_batch(i * ACCUM + j, bs=8, noise=1.0)
            loss = F.cross_entropy(model(x), y)
            (loss / ACCUM if healthy else loss).backward()
            total += loss.item() / ACCUM
        run.extra.setdefault("norm", grad_norm(model.parameters()))
        opt.step()
        return total

    run = Run(model, opt, step)
    return run


def evidence(run):
    return run.extra["norm"] > 2.0
