"""Pure bf16 training (no fp32 master weights, nearest rounding) with a fine-tuning learning rate: an update smaller
than half a bf16 ulp of the weight is dropped, norm weights (1.0) and all larger weights never move.
Healthy twin: fp32 parameters under bf16 autocast."""

from common import *

META = dict(
    id="21",
    title="Pure bf16 parameters + small lr: most updates rounded away",
    upstream="meta-pytorch/torchtune#2254; pytorch/ao#1124",
    family="lost_update",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["fraction of elements changed per step << 1", "norm weights exactly constant"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    base = pretrained_lm(steps=20, data_seed=0)
    seed_all(21)
    model = TinyLM()
    model.load_state_dict(base.state_dict())
    if not healthy:
        model.bfloat16()
    opt = adamw(model.parameters(), 2e-4)
    w0 = clone_state(model)

    def step(i):
        x, y = lm_batch(i, bs=16)
        with torch.autocast("cpu", torch.bfloat16, enabled=healthy):
            loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"w0": w0})


def evidence(run):
    w = run.extra["w0"]
    norms = [n for n, _ in run.model.named_parameters() if n.endswith("norm.weight")]
    stuck = sum(int((p == w[n]).sum()) for n, p in run.model.named_parameters())
    tot = sum(p.numel() for p in run.model.parameters())
    # most of the norm weights sit at exactly the start value and a large share of all elements never moved
    fixed = sum(int((dict(run.model.named_parameters())[n] == w[n]).sum()) for n in norms) / sum(
        w[n].numel() for n in norms
    )
    return stuck / tot > 0.2 and fixed > 0.5
