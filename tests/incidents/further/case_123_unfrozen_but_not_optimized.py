"""The optimizer is made from the parameters that require a gradient at the start; layers unfrozen later get gradients and
are in no group.  Fix: add_param_group (or make the optimizer anew) when unfreezing."""

from common import *

META = dict(
    id="123",
    title="Layers unfrozen during the training are not in the optimizer",
    upstream="OptimalScale/LMFlow#726; facebookresearch/detectron2#2486",
    family="coverage",
    steps=60,
    bug_step=20,
    world_size=1,
    signals=[
        "trainable parameters with gradients in no group",
        "gradients that nobody clears grow",
    ],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(123)
    model = ConvNet()
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("fc"))
    opt = sgd([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    start = model.conv2.weight.detach().clone()

    def step(i):
        if i == 20:
            model.requires_grad_(True)
            if healthy:
                rest = [p for n, p in model.named_parameters() if not n.startswith("fc")]
                opt.add_param_group({"params": rest, "lr": 0.02})
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    return torch.equal(run.extra["start"], run.model.conv2.weight)
