"""Distillation of a frozen teacher into a small student on noisy labels, with batches of two, MixUp and a high dropout: a loss
that is mostly noise, and an EMA of the student in float32 that starts late."""

import copy

from common import *

META = dict(
    id="h222",
    title="Distillation with label noise, batches of two, dropout and a late average",
    upstream="-",
    family="healthy",
    steps=600,
    bug_step=None,
    world_size=1,
    tempts=[
        "a frozen network in eval mode",
        "noise over two orders of magnitude",
        "an average that starts at 200",
    ],
)


class Pair(nn.Module):
    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = MLP(16, 16, 4, dropout=0.3)
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        self.average.eval()
        return self


def build(healthy=True, rank=0, world_size=1):
    seed_all(1222)
    teacher = MLP(16, 64, 4, bn=True)
    first = adamw(teacher.parameters(), 5e-3)
    for i in range(60):
        x, y = cls_batch(50_000 + i)
        loss = F.cross_entropy(teacher(x), y)
        first.zero_grad()
        loss.backward()
        first.step()
    teacher.zero_grad()
    model = Pair(teacher).train()
    opt = sgd(model.student.parameters(), 0.02, momentum=0.9, nesterov=True)

    def step(i):
        g = gen(1222, i)
        x, y = cls_batch(i, bs=2)
        mix = torch.rand(1, generator=g)
        x = mix * x + (1 - mix) * x.flip(0)
        if torch.rand(1, generator=g) < 0.2:
            y = torch.randint(0, 4, (2,), generator=g)
        logits = model.student(x)
        with torch.no_grad():
            soft = (model.teacher(x) / 2).softmax(-1)
        loss = F.kl_div((logits / 2).log_softmax(-1), soft, reduction="batchmean")
        loss = loss + 0.1 * F.cross_entropy(logits, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i >= 200:
            with torch.no_grad():
                for a, p in zip(model.average.parameters(), model.student.parameters()):
                    a.copy_(p) if i == 200 else a.lerp_(p, 0.01)
        return loss.item()

    return Run(model, opt, step)
