"""One autocast context around the whole training loop.  It keeps the bf16 copy of each weight that it made first: the optimizer
moves the fp32 weights, the forward goes on with the copies of step 0."""

from common import *

META = dict(
    id="234",
    title="One autocast around the loop: every forward uses the casts of the first weights",
    upstream="X-GenGroup/Flow-Factory#186; same class NVIDIA/apex#132",
    family="lost_update",
    steps=150,
    bug_step=1,
    world_size=1,
    signals=["weights move, losses on the same data don't", "gradients stay what they were"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(234)
    model = MLP(16, 32, 4)
    opt = adamw(model.parameters(), 3e-3)
    outer = torch.autocast("cpu", dtype=torch.bfloat16)
    if not healthy:
        outer.__enter__()

    def step(i):
        x, y = cls_batch(i)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
        loss = F.cross_entropy(out.float(), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i == META["steps"] - 1:
            run.extra["seen"] = probe()
            if not healthy:
                outer.__exit__(None, None, None)
        return loss.item()

    def probe():
        x, _ = cls_batch(10_000)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float()

    run = Run(model, opt, step)
    return run


def evidence(run):
    x, _ = cls_batch(10_000)
    with torch.no_grad():
        true = run.model(x)
    return float((run.extra["seen"] - true).abs().max()) > 0.5
