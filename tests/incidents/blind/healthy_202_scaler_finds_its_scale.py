"""A GradScaler that begins far too high: the first dozens of attempts are skipped until the scale fits; later it grows every 25
steps and loses one step at a time."""

from common import *

META = dict(
    id="h202",
    title="A GradScaler that begins too high and later tries higher scales",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "steps skipped at the start",
        "infinite gradients now and then",
        "parameters that rest",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1202)
    model = MLP(16, 32, 4, bn=True)
    opt = adamw(model.parameters(), 3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=25)

    def to_half(gradient):
        return gradient.half().float()  # what a half-precision backward can hold

    for p in model.parameters():
        p.register_hook(to_half)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        return loss.item()

    return Run(model, opt, step)
