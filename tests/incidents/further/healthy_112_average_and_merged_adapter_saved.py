"""A LoRA fine-tuning that saves three things: the adapter alone, the base merged with it (a copy), and an EMA of the
adapter in its own file.  None of them is the whole state, by design."""

import copy

from common import *

META = dict(
    id="h112",
    title="Adapter, merged copy and EMA saved as files of their own",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=1,
    tempts=[
        "saved values differ from the model's",
        "saves lack most keys",
        "keys change between saves",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=30)
    seed_all(1112)
    inject_lora(model, r=4)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ema = {n: p.detach().clone() for n, p in trained.items()}
    opt = adamw(list(trained.values()), 5e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        for name, p in trained.items():
            ema[name].lerp_(p.detach(), 0.1)
        if i in (29, 59):
            torch.save({n: p.detach().clone() for n, p in trained.items()}, tmp_path("adapter.pt"))
            torch.save(ema, tmp_path("ema.pt"))
            merged = copy.deepcopy(model)
            for layer in merged.layers:
                for target in ("wq", "wv"):
                    lora = getattr(layer.attention, target)
                    lora.base_layer.weight.data.add_(lora.delta())
                    setattr(layer.attention, target, lora.base_layer)
            torch.save(merged.state_dict(), tmp_path("merged.pt"))
        return loss.item()

    return Run(model, opt, step)
