"""ReLoRA: every 60 steps the adapters are merged into the base weights and begun anew (A drawn, B zero), their moments pruned, and
the learning rate warms up again."""

from common import *

META = dict(
    id="h244",
    title="ReLoRA: adapters merged into the base and begun anew every 60 steps",
    upstream="-",
    family="healthy",
    steps=240,
    bug_step=None,
    world_size=1,
    tempts=[
        "frozen base weights move at each merge",
        "adapters drawn anew",
        "moments dropped",
        "learning rate jumps",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=40, d=32, layers=1, std=0.1)
    seed_all(1244)
    adapters = inject_lora(model, r=4, alpha=8.0, targets=("wq", "wk", "wv", "wo"), ffn=True)
    for n, p in model.named_parameters():
        if "norm" in n or "output" in n:
            p.requires_grad_(True)
    opt = adamw([p for p in model.parameters() if p.requires_grad], 4e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(1.0, (s % 60) / 10) * (1 - s / 300)
    )

    @torch.no_grad()
    def merge():
        for adapter in adapters:
            adapter.base_layer.weight.add_(adapter.delta())
            adapter.reset_lora()
            for p in (adapter.lora_A["default"].weight, adapter.lora_B["default"].weight):
                for name in ("exp_avg", "exp_avg_sq"):
                    keep = torch.rand(p.shape, generator=gen(1244)) < 0.1
                    opt.state[p][name].mul_(keep)

    def step(i):
        if i and i % 60 == 0:
            merge()
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
