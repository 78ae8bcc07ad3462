"""The distance to a goal is sqrt(sum of squares): at distance 0 its value is 0 and its gradient NaN.  clip_grad_norm_ does not
stop a NaN, it spreads it: one such batch, and every parameter is NaN.  Fix: skip a step whose norm is not finite."""

from common import *

META = dict(
    id="209",
    title="A NaN gradient passes clip_grad_norm_ and reaches every weight",
    upstream="facebookresearch/habitat-lab#2226; pytorch/pytorch#46849",
    family="nonfinite",
    steps=60,
    bug_step=35,
    world_size=1,
    signals=["gradient norm NaN in one step", "all parameters NaN from then on"],
    loss_visible=True,
)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.actor, self.critic = (
            nn.Linear(16, 32),
            nn.Linear(32, 4),
            nn.Linear(32, 1),
        )
        self.goal = nn.Linear(2, 2)

    def forward(self, x, offset):
        h = torch.tanh(self.encoder(x))
        distance = (self.goal.weight @ offset.T).pow(2).sum(0).sqrt()
        return self.actor(h), self.critic(h)[:, 0] - 0.1 * distance


def build(healthy, rank=0, world_size=1):
    seed_all(209)
    model = Policy()
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        offset = torch.randn(32, 2, generator=gen(209, i))
        if i == 35:
            offset[7] = 0.0
        logits, value = model(x, offset)
        loss = F.cross_entropy(logits, y) + 0.1 * F.mse_loss(value, (y == 0).float())
        opt.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        if torch.isfinite(norm) or not healthy:
            opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return not bool(torch.isfinite(run.model.actor.weight).all())
