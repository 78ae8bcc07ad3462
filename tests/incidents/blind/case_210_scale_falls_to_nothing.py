"""An angular margin loss takes acos of a cosine that reaches exactly 1: the gradient is infinite whatever the scale.  The
GradScaler halves its scale and skips the step, every time, until the scale is nothing.  Fix: clamp the cosine inside 1."""

from common import *

META = dict(
    id="210",
    title="Gradients are infinite in every step; the scale falls to nothing, no step is taken",
    upstream="deepinsight/insightface#2277, #2262",
    family="steps",
    steps=90,
    bug_step=30,
    world_size=1,
    signals=["forwards and backwards without a step", "scale halves every time"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(210)
    model = nn.ModuleDict({"body": MLP(16, 32, 8), "margin": nn.Linear(8, 4, bias=False)})
    opt = sgd(model.parameters(), 0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    edge = 1 - 1e-6 if healthy else 1.0

    def step(i):
        x, y = cls_batch(i)
        feature = F.normalize(model["body"](x), dim=1)
        if i >= 30:  # a class of which every sample has been learnt by heart
            feature = torch.cat([feature, F.normalize(model["margin"].weight[:1], dim=1)])
            y = torch.cat([y, y.new_zeros(1)])
        cosine = F.linear(feature, F.normalize(model["margin"].weight, dim=1))
        angle = torch.acos(cosine.clamp(-edge, edge))
        target = F.one_hot(y, 4).bool()
        loss = F.cross_entropy(16.0 * torch.where(target, torch.cos(angle + 0.1), cosine), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        return loss.item()

    return Run(model, opt, step, extra={"scaler": scaler})


def evidence(run):
    return run.extra["scaler"].get_scale() < 1e-3
