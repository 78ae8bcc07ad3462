"""The runner calls model.init_weights() once more when training begins, after the pre-trained backbone was loaded: its
weights are drawn anew.  Fix: init_weights skips (or reloads) what is pre-trained."""

from common import *

META = dict(
    id="106",
    title="init_weights, called by the runner at the start, overwrites the pre-trained backbone",
    upstream="zshn25/DINOv2_mmseg#1; ImCharlesY/AdaInt#12; huggingface/transformers#36221",
    family="init",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["weights change between attach and the first step, by no optimizer"],
    loss_visible=True,
)


class Tagger(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(32, 64)

    def init_weights(self, skip_backbone):
        for name, module in self.named_modules():
            if name.startswith("backbone") and skip_backbone:
                continue
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, x):
        return self.head(self.backbone.hidden(x))


def build(healthy, rank=0, world_size=1):
    backbone = pretrained_lm(steps=30)
    backbone.output = nn.Identity()
    seed_all(106)
    model = Tagger(backbone)
    opt = adamw(model.parameters(), 1e-3)
    start = clone_state(backbone)

    def step(i):
        if i == 0:  # the runner's own first act, after everything was handed over to it
            model.init_weights(skip_backbone=healthy)
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    now, start = clone_state(run.model.backbone), run.extra["start"]
    name = "layers.0.attention.wq.weight"
    return float(F.cosine_similarity(now[name].flatten(), start[name].flatten(), 0)) < 0.5
