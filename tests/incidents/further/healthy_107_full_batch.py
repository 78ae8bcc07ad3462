"""A data set of 64 points, all of them in every batch, label smoothing, gradients clipped in every step, and a cosine
that ends at 0 in the last step."""

from common import *

META = dict(
    id="h107",
    title="Full-batch training on a small data set, cosine down to 0",
    upstream="-",
    family="healthy",
    steps=150,
    bug_step=None,
    world_size=1,
    planned_steps=150,
    tempts=[
        "the same batch in every step",
        "updates become tiny at the end",
        "clipping in every step",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1107)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.2, momentum=0.9)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, META["steps"])
    x, y = cls_batch(0, bs=64)

    def step(i):
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        opt.step()
        sched.step()
        return loss.item()

    return Run(model, opt, step, scheduler=sched)
