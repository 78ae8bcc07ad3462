"""The scaler marks an optimizer as unscaled by its id; clipping unscales through a wrapper, so step() unscales the inner
optimizer once more and gradients are 65,536 times too small."""

from common import *

META = dict(
    id="128",
    title="Gradients unscaled twice: by the wrapper before clipping and by scaler.step",
    upstream="huggingface/accelerate#113 (fix #115)",
    family="precision",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=[
        "updates far below those of the gradients before",
        "gradient norm 65536 times too small",
    ],
    loss_visible=True,
)


class Wrapper:
    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups


def build(healthy, rank=0, world_size=1):
    seed_all(128)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.1, momentum=0.9)
    wrapped = Wrapper(opt)
    scaler = torch.amp.GradScaler("cpu")
    start = model.head.weight.detach().clone()

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(opt if healthy else wrapped)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    return float((run.model.head.weight.detach() - run.extra["start"]).abs().max()) < 1e-3
