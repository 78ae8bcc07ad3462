"""max_grad_norm=0 is meant as "no clipping", and is handed to clip_grad_norm_ as it is: every gradient becomes 0."""

from common import *

META = dict(
    id="219",
    title="Clipped to norm 0 where no clipping was meant",
    upstream="strands-labs/robots#2028; 0 means no clipping in OpenNMT/OpenNMT-py#1140",
    family="frozen",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=[
        "all gradients are exactly 0 when the optimizer steps",
        "only weight decay moves weights",
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(219)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3, wd=0.1)
    max_grad_norm = 0.0

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        if not healthy or max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return all(float(p.grad.abs().max()) == 0 for p in run.model.parameters() if p.grad is not None)
