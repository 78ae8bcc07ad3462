"""A projection is made by nn.Parameter(torch.empty(...)) and no initialisation reaches it: it holds what the memory
held.  A fixed pattern stands for that memory: mostly zeros and denormal numbers, a part of an old activation."""

from common import *

META = dict(
    id="107",
    title="torch.empty parameter that is never initialised",
    upstream="openai/CLIP#15; gordicaleksa/pytorch-GAT#11; NVIDIA-BioNeMo/bionemo-recipes#983",
    family="init",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=[
        "denormal numbers and single huge values in a fresh weight",
        "scale far from 1/sqrt(fan-in)",
    ],
    loss_visible=True,
)


class TextEncoder(TinyLM):
    def __init__(self):
        super().__init__(layers=1)
        self.text_projection = nn.Parameter(torch.empty(32, 32))

    def hidden(self, x):
        return super().hidden(x) @ self.text_projection


def recycled_memory(rows, columns):
    values = torch.zeros(rows, columns)
    values[::3] = 4.59e-41
    values[: rows // 4] = 25.0 * torch.randn(rows // 4, columns, generator=gen(107))
    return values


def build(healthy, rank=0, world_size=1):
    seed_all(107)
    model = TextEncoder()
    with torch.no_grad():
        if healthy:
            nn.init.normal_(model.text_projection, std=32**-0.5)
        else:
            model.text_projection.copy_(recycled_memory(32, 32))
    opt = adamw(model.parameters(), 3e-3)
    start = model.text_projection.detach().clone()

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    start = run.extra["start"]
    return bool(((start != 0) & (start.abs() < 1e-37)).any() or start.abs().max() > 10)
