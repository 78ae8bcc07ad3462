"""Adapters that begin with the principal part of the weight, which is taken out of the frozen base (PiSSA), with trained magnitudes
(DoRA) and a rate for B that is sixteen times A's (LoRA+)."""

from common import *

META = dict(
    id="h279",
    title="Adapters made of the weights' principal parts, with trained magnitudes",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "base weights that are not those of the checkpoint",
        "B is not 0 at the beginning",
        "learning rates sixteen times apart",
    ],
)


class Principal(nn.Module):
    def __init__(self, base, r=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        u, s, v = torch.linalg.svd(base.weight.detach(), full_matrices=False)
        self.lora_A = nn.Parameter(s[:r, None].sqrt() * v[:r])
        self.lora_B = nn.Parameter(u[:, :r] * s[:r].sqrt())
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1))
        with torch.no_grad():
            base.weight.sub_(self.lora_B @ self.lora_A)

    def forward(self, x):
        w = self.base.weight + self.lora_B @ self.lora_A
        return F.linear(x, self.magnitude[:, None] * w / w.norm(dim=1, keepdim=True).detach())


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=80, d=32, layers=2, std=0.1)
    seed_all(1279)
    model.requires_grad_(False)
    for layer in model.layers:
        for name in ("wq", "wk", "wv", "wo"):
            setattr(layer.attention, name, Principal(getattr(layer.attention, name)))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    fast = [p for n, p in named if n.endswith("lora_B")]
    slow = [p for n, p in named if not n.endswith("lora_B")]
    opt = adamw([{"params": slow, "lr": 3e-4}, {"params": fast, "lr": 4.8e-3}])
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: 1 - s / 260)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
