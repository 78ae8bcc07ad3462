"""For a quick evaluation the adapters are added into the base weights.  Nothing takes them out again, and the next evaluation adds
them once more."""

import copy

from common import *

META = dict(
    id="225",
    title="Adapters are added into the base at each evaluation and never taken out",
    upstream="jingyaogong/minimind#598; same class Baijiong-Lin/LoRA-Torch#10, radixark/miles#1087",
    family="lora",
    steps=80,
    bug_step=20,
    earliest=19,
    world_size=1,
    signals=["frozen base weights move at each evaluation", "loss jumps after it"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    trained = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(225)
    model = trained
    adapters = inject_lora(model, r=4, alpha=8.0, targets=("wq", "wv", "wo"))
    opt = adamw([p for p in model.parameters() if p.requires_grad], 5e-3)
    start = adapters[0].base_layer.weight.detach().clone()

    @torch.no_grad()
    def evaluate(i):
        merged = copy.deepcopy(model) if healthy else model
        for layer in merged.modules():
            if isinstance(layer, LoRALinear):
                layer.base_layer.weight.add_(layer.delta())
        merged.eval()
        lm_loss(merged, *shifted_batch(5000 + i))
        model.train()

    def step(i):
        if i and i % 20 == 0:
            evaluate(i)
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"adapters": adapters, "start": start})


def evidence(run):
    return not torch.equal(run.extra["adapters"][0].base_layer.weight, run.extra["start"])
