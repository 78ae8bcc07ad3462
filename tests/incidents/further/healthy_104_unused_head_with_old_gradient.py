"""A pre-trained model is used as an encoder; its own head is not called any more and not in the optimizer.  It still has
the gradient of its last pre-training step, which nobody clears and nobody uses."""

from common import *

META = dict(
    id="h104",
    title="Unused head of a pre-trained model, left out of the optimizer",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=1,
    tempts=["a trainable parameter in no group, with a gradient that does not change"],
)


class Encoder(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(32, 64)

    def forward(self, x):
        return self.head(self.backbone.hidden(x))


def build(healthy=True, rank=0, world_size=1):
    backbone = pretrained_lm(steps=30)
    seed_all(1104)
    model = Encoder(backbone)
    used = [p for n, p in model.named_parameters() if "output" not in n]
    opt = adamw(used, 1e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(used, 1.0)
        opt.step()
        return loss.item()

    return Run(model, opt, step)
