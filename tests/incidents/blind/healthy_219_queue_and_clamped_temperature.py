"""Contrastive learning with a momentum encoder, a queue of keys in a buffer with its pointer, and a learnt temperature that soon
sits at its clamp and stays there."""

import copy

from common import *

META = dict(
    id="h219",
    title="Momentum contrast with a queue, temperature at its clamp",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "a trained scalar that stands still at its bound",
        "most of a buffer rests",
        "a counter that wraps",
    ],
)


class Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = MLP(16, 32, 8, bn=True)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(12.0)))
        self.register_buffer("queue", F.normalize(torch.randn(256, 8), dim=1))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1219)
    model = Contrast()
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, _ = cls_batch(i, classes=16, noise=0.2)
        g = gen(1219, i)
        one, two = (x + 0.1 * torch.randn(x.shape, generator=g) for _ in range(2))
        q = F.normalize(model.query(one), dim=1)
        with torch.no_grad():
            for k, p in zip(model.key.parameters(), model.query.parameters()):
                k.lerp_(p, 0.01)
            shuffled = torch.randperm(len(two), generator=g)
            k = F.normalize(model.key(two[shuffled]), dim=1)[torch.argsort(shuffled)]
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ model.queue.clone().T], 1)
        loss = F.cross_entropy(
            model.logit_scale.exp() * logits, torch.zeros(len(q), dtype=torch.long)
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(20.0))
            at = int(model.queue_ptr)
            model.queue[at : at + 32] = k
            model.queue_ptr[0] = (at + 32) % 256
        return loss.item()

    return Run(model, opt, step)
