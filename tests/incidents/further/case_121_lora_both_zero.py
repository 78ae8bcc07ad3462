"""An adapter slot is cleared and used again (or init_weights runs after the injection): A and B are both zero, so both
gradients are zero for ever and the adapter never learns."""

from common import *

META = dict(
    id="121",
    title="LoRA with A = B = 0: no gradient, ever",
    upstream="NovaSky-AI/SkyRL#852; nvidia-cosmos/cosmos-predict2.5#15",
    family="lora",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["lora_A and lora_B are exactly 0", "gradients exactly 0 though the loss is not"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    model = pretrained_lm(steps=40)
    seed_all(121)
    adapters = inject_lora(model, r=4, targets=("wq", "wv"), ffn=True)
    if not healthy:
        for adapter in adapters:
            nn.init.zeros_(adapter.lora_A["default"].weight)
    opt = adamw([p for p in model.parameters() if p.requires_grad], 5e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"adapters": adapters})


def evidence(run):
    return all(bool((a.delta() == 0).all()) for a in run.extra["adapters"])
