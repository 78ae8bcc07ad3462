"""The EMA copy is kept in the weights' bf16: with decay 0.999 an update is far below half an ulp and is rounded away, the
average stays at the first weights.  Fix: EMA in fp32."""

import copy

from common import *

META = dict(
    id="112",
    title="EMA weights in bf16: updates of a thousandth are rounded away",
    upstream="d8ahazard/sd_dreambooth_extension#1415, #1417; AndreasBergmeister/ram#6",
    family="ema",
    steps=80,
    bug_step=0,
    earliest=0,
    world_size=1,
    signals=["most elements of the average never change while its source moves", "bf16 average"],
    loss_visible=False,
)


class WithAverage(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.net = TinyLM(d=32, layers=1, std=0.1)
        self.ema = copy.deepcopy(self.net).requires_grad_(False).to(dtype)

    def forward(self, x):
        return self.net(x)


def build(healthy, rank=0, world_size=1):
    seed_all(112)
    model = WithAverage(torch.float32 if healthy else torch.bfloat16)
    opt = adamw(model.net.parameters(), 1e-3)
    start = clone_state(model.ema)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for average, p in zip(model.ema.parameters(), model.net.parameters()):
                average.mul_(0.999).add_(p.to(average.dtype), alpha=0.001)
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    now, start = clone_state(run.model.ema), run.extra["start"]
    name = "layers.0.attention.wq.weight"
    return float((now[name] == start[name]).float().mean()) > 0.5
