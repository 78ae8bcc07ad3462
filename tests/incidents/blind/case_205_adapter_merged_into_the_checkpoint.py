"""eval() merges the adapter into the base weights, train() takes it out again; whether it is merged is a plain attribute.  The
checkpoint is saved in eval mode: after the resume the base holds the adapter, and the adapter is applied once more."""

from common import *

META = dict(
    id="205",
    title="Saved while merged, resumed as unmerged: the base weights hold the adapter",
    upstream="Baijiong-Lin/LoRA-Torch#10; espnet/espnet#5722; same class microsoft/LoRA#34",
    family="lora",
    steps=70,
    bug_step=40,
    world_size=1,
    signals=["frozen base weights differ from before the resume", "loss jumps"],
    loss_visible=True,
)


class MergingLinear(LoRALinear):
    """Merges in eval mode, as loralib does."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            sign = -1.0 if mode else 1.0
            with torch.no_grad():
                self.base_layer.weight.add_(sign * self.delta())
            self.merged = not mode
        return self

    def forward(self, x):
        return self.base_layer(x) if self.merged else super().forward(x)


def build(healthy, rank=0, world_size=1):
    base = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(205)

    def make():
        model = TinyLM(d=32, layers=1, std=0.1)
        model.load_state_dict(base.state_dict())
        for p in model.parameters():
            p.requires_grad_(False)
        for layer in model.layers:
            for name in ("wq", "wv", "wo"):
                linear = getattr(layer.attention, name)
                setattr(layer.attention, name, MergingLinear(linear, r=4, alpha=16.0))
        return model, adamw([p for p in model.parameters() if p.requires_grad], 1e-2)

    def step(i):
        if i == 40:
            path = tmp_path("adapter.pt")
            run.model.train(mode=healthy)
            torch.save({"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}, path)
            run.replaced(*make())
            blob = torch.load(path)
            run.model.load_state_dict(blob["model"])
            run.optimizer.load_state_dict(blob["optim"])
        run.model.train()
        x, y = shifted_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    model, opt = make()
    weight = model.layers[0].attention.wq.base_layer.weight
    run = Run(model, opt, step, extra={"weight": weight.detach().clone()})
    return run


def evidence(run):
    now = run.model.layers[0].attention.wq.base_layer.weight
    return float((now - run.extra["weight"]).abs().max()) > 1e-3
