"""Native AMP: clip_grad_norm_ ran right after backward() while the gradients were still multiplied by the loss scale
(65536); after unscaling they are ~1e-5 and training crawls.  Real torch.amp.GradScaler('cpu')."""

from common import *

META = dict(
    id="24",
    title="Gradient clipping before scaler.unscale_: effective gradients 65536x too small",
    upstream="Lightning-AI/pytorch-lightning#9599; milesial/Pytorch-UNet#468",
    family="precision",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["update/parameter ratio ~1e-7", "clip ratio always << 1"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(24)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=10**6)
    w0 = clone_state(model)

    def step(i):
        x, y = cls_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        if healthy:
            scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        scaler.step(opt)
        scaler.update()
        return loss.item()

    return Run(model, opt, step, extra={"w0": w0, "scaler": scaler})


def evidence(run):
    d = max(float((p - run.extra["w0"][n]).abs().max()) for n, p in run.model.named_parameters())
    return d < 1e-2
