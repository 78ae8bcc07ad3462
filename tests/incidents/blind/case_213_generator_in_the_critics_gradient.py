"""Generator and discriminator take turns in one training step.  The generator's loss also leaves gradients in the
discriminator, and nothing clears them before its own backward: it is trained to be fooled.  Fix: zero_grad before."""

from common import *

META = dict(
    id="213",
    title="The generator's loss stays in the discriminator's gradient",
    upstream="FoundationVision/OmniTokenizer#15; leffff/FlowModels#3; Hsintien-Ng/idinvert_pytorch-reproduced#1",
    family="explosion",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=["gradients are not zero before the backward that precedes the step"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(213)
    model = nn.ModuleDict({"generator": MLP(8, 32, 16), "critic": MLP(16, 32, 1)})
    g_opt = adamw(model["generator"].parameters(), 1e-3, betas=(0.5, 0.9))
    d_opt = adamw(model["critic"].parameters(), 1e-3, betas=(0.5, 0.9))

    def step(i):
        real, _ = cls_batch(i)
        fake = model["generator"](torch.randn(32, 8, generator=gen(213, i)))
        g_opt.zero_grad()
        g_loss = F.softplus(-model["critic"](fake)).mean()
        g_loss.backward()
        g_opt.step()
        if healthy:
            d_opt.zero_grad()
        run.extra["left"] = grad_norm(model["critic"].parameters())
        d_loss = F.softplus(model["critic"](fake.detach())).mean()
        d_loss = d_loss + F.softplus(-model["critic"](real)).mean()
        d_loss.backward()
        d_opt.step()
        d_opt.zero_grad()
        return d_loss.item()

    run = Run(model, g_opt, step, extra={"optimizers": [g_opt, d_opt]})
    return run


def evidence(run):
    return run.extra["left"] > 0
