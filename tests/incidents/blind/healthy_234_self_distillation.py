"""Self-distillation without labels: a teacher that follows ever more slowly and at last not at all (momentum 0.99 to 1), a centre,
a weight-normalised last layer whose gain is fixed and whose gradients are dropped for the first 50 steps, weight decay that grows."""

import copy

from common import *

META = dict(
    id="h234",
    title="Self-distillation: a teacher that stops in the end, a head that rests at first",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "an average that comes to a stop",
        "gradients dropped for 50 steps",
        "a gain that never moves",
        "a schedule of weight decay",
    ],
)


class Head(nn.Module):
    def __init__(self, d, out):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(d, 32), nn.GELU(), nn.Linear(32, 16))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(16, out, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1)
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x):
        return self.last(F.normalize(self.mlp(x), dim=-1))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1234)
    student = nn.Sequential(MLP(16, 32, 16), Head(16, 24))
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = nn.ModuleDict({"student": student, "teacher": teacher})
    model.register_buffer("center", torch.zeros(24))
    decayed = [p for p in student.parameters() if p.ndim > 1 and p.requires_grad]
    others = [p for p in student.parameters() if p.ndim <= 1 and p.requires_grad]
    opt = adamw([{"params": decayed}, {"params": others, "weight_decay": 0.0}], 2e-3, wd=0.04)

    def step(i):
        part = min(1.0, i / 380)
        opt.param_groups[0]["weight_decay"] = 0.4 - 0.36 * (1 + math.cos(math.pi * part)) / 2
        for group in opt.param_groups:
            group["lr"] = 2e-3 * min(1.0, (i + 1) / 40) * (0.51 + 0.49 * math.cos(math.pi * part))
        x, _ = cls_batch(i, bs=64, noise=0.3)
        g = gen(1234, i)
        a, b = (x + 0.2 * torch.randn(x.shape, generator=g) for _ in range(2))
        with torch.no_grad():
            out = teacher(a)
            target = F.softmax((out - model.center) / 0.04, -1)
            model.center.lerp_(out.mean(0), 0.1)
        loss = -(target * F.log_softmax(student(b) / 0.1, -1)).sum(-1).mean()
        opt.zero_grad()
        loss.backward()
        if i < 50:
            student[1].last.parametrizations.weight.original1.grad = None
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        opt.step()
        momentum = 1 - 0.01 * (1 + math.cos(math.pi * part)) / 2
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters()):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
        return loss.item()

    return Run(model, opt, step)
