"""One adapter is frozen (what was learnt before), a second one is trained over it.  Leaving a "without adapters" context turns the
gradients of every adapter on, the frozen one's too, and the optimizer was given all of them."""

from common import *

META = dict(
    id="226",
    title="Leaving a context without adapters lets the frozen adapter train",
    upstream="huggingface/peft#3447; same class huggingface/peft#3580",
    family="lora",
    steps=80,
    bug_step=25,
    earliest=24,
    world_size=1,
    signals=["requires_grad of frozen parameters becomes true", "they move from then on"],
    loss_visible=False,
)


class TwoAdapters(LoRALinear):
    enabled = True

    def forward(self, x):
        out = self.base_layer(x)
        if self.enabled:
            for n in self.lora_A:
                out = out + self.scaling * self.lora_B[n](self.lora_A[n](x))
        return out


def build(healthy, rank=0, world_size=1):
    model = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(226)
    model.requires_grad_(False)
    layers = []
    for target in ("wq", "wv", "wo"):
        layer = TwoAdapters(getattr(model.layers[0].attention, target), adapter="earlier")
        layer.add_adapter("now")
        nn.init.normal_(layer.lora_B["earlier"].weight, std=0.05)
        layer.lora_A["earlier"].requires_grad_(False)
        layer.lora_B["earlier"].requires_grad_(False)
        setattr(model.layers[0].attention, target, layer)
        layers.append(layer)
    opt = adamw([p for n, p in model.named_parameters() if "lora_" in n], 5e-3)
    start = layers[0].lora_B["earlier"].weight.detach().clone()

    @torch.no_grad()
    def reference(x, y):
        for layer in layers:
            layer.enabled = False
        loss = lm_loss(model, x, y)
        for layer in layers:
            layer.enabled = True
            if not healthy:
                for n in layer.lora_A:
                    layer.lora_A[n].requires_grad_(True)
                    layer.lora_B[n].requires_grad_(True)
        return loss

    def step(i):
        x, y = shifted_batch(i)
        if i == 25:
            reference(x, y)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"layers": layers, "start": start})


def evidence(run):
    return not torch.equal(run.extra["layers"][0].lora_B["earlier"].weight, run.extra["start"])
