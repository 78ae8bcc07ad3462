"""Semi-supervised learning: pseudo-labels count above a threshold that no sample passes for a long time; some labelled batches are
empty; the second head then has gradients that are exactly 0, and the loss of empty batches is 0 times a sum."""

from common import *

META = dict(
    id="h242",
    title="Pseudo-labels that none is sure of at first, and empty batches",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "a head whose gradient is exactly 0 for long",
        "steps in which the loss is 0",
        "batches of no rows",
    ],
)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU())
        self.head, self.second = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x):
        h = self.body(x)
        return self.head(h), self.second(h)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1242)
    model = Shared()
    opt = sgd(model.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)

    def step(i):
        x, y = cls_batch(i, bs=8, noise=1.0)
        if i % 10 == 7:
            x, y = x[:0], y[:0]
        u, _ = cls_batch(50000 + i, bs=16, noise=1.0)
        out, _ = model(x)
        loss = F.cross_entropy(out, y, reduction="sum") / max(1, len(y)) + 0.0 * out.sum()
        sure, guess = model(u)[0].detach().softmax(-1).max(-1)
        _, second = model(u + 0.3 * torch.randn(u.shape, generator=gen(1242, i)))
        each = F.cross_entropy(second, guess, reduction="none")
        loss = loss + (each * (sure > 0.97)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
