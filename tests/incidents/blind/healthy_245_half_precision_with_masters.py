"""fp16 weights in the model, fp32 masters in the optimizer, a GradScaler that grows every 40 steps and is thrown back; the embedding
is kept in fp32; the step is a compiled function (eager backend)."""

from common import *

META = dict(
    id="h245",
    title="fp16 weights with fp32 masters, a loss scale that grows and is thrown back",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "the model's weights are in no optimizer",
        "weights that do not change in a step",
        "infinite gradients now and then",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1245)
    model = MLP(16, 64, 4, depth=3).half()
    masters = [p.detach().float().clone().requires_grad_(True) for p in model.parameters()]
    opt = adamw(masters, 1e-3, wd=0.01)
    state = {"scale": 2.0**16, "good": 0}
    compiled = torch.compile(model, backend="eager")

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(compiled(x.half()).float(), y)
        model.zero_grad()
        (loss * state["scale"]).backward()
        finite = all(bool(p.grad.isfinite().all()) for p in model.parameters())
        if finite:
            with torch.no_grad():
                for m, p in zip(masters, model.parameters()):
                    m.grad = p.grad.float() / state["scale"]
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            opt.step()
            with torch.no_grad():
                for m, p in zip(masters, model.parameters()):
                    p.copy_(m)
            state["good"] += 1
            if state["good"] % 40 == 0:
                state["scale"] *= 2
        else:
            state["scale"] /= 2
            state["good"] = 0
        return loss.item()

    return Run(model, opt, step)
