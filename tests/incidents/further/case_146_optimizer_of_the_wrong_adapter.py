"""One base, two LoRA adapters trained in turn.  The optimizer of each is made from the parameters that require a gradient
at that moment, which are those of whichever adapter is active: both hold B's, and A is never trained."""

from common import *

META = dict(
    id="146",
    title="Adapter A's optimizer was made while B was active, and holds B's parameters",
    upstream="gke-labs/open-rl#80; adapter-hub/adapters#260",
    family="lora",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["adapter parameters with gradients in no optimizer", "others in two optimizers"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    model = pretrained_lm(steps=40)
    seed_all(146)
    layers = inject_lora(model, r=4)
    for layer in layers:
        layer.add_adapter("b")

    def activate(name):
        for layer in layers:
            layer.active = name
            for other in ("default", "b"):
                for part in (layer.lora_A, layer.lora_B):
                    part[other].weight.requires_grad_(other == name)

    opts = {}
    for name in ("default", "b"):
        activate(name if healthy else "b")
        opts[name] = adamw([p for p in model.parameters() if p.requires_grad], 5e-3)

    def step(i):
        name = ("default", "b")[i % 2]
        activate(name)
        x, y = shifted_batch(i, seed=3 + i % 2)
        loss = lm_loss(model, x, y)
        opts[name].zero_grad()
        loss.backward()
        opts[name].step()
        return loss.item()

    extra = {"optimizers": list(opts.values()), "layers": layers}
    return Run(model, opts["default"], step, extra=extra)


def evidence(run):
    return all(bool((layer.delta("default") == 0).all()) for layer in run.extra["layers"])
