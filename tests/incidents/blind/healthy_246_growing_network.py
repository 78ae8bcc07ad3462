"""A network that grows: a block is put in at 80 and 160 (its last layer zero, so that nothing changes at first), the optimizer is
given its parameters by add_param_group; images double in size; the old head fades out while the new one fades in."""

from common import *

META = dict(
    id="h246",
    title="A network that grows by blocks, with heads that fade over",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "parameters that appear in the middle of the training",
        "a head whose gradient fades to 0",
        "statistics that jump with the size",
    ],
)


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.bn, self.last = (
            nn.Conv2d(c, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.Conv2d(c, c, 1),
        )
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        return x + self.last(F.relu(self.bn(self.conv(x))))


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([Residual(8)])
        self.old, self.new = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x, fade):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        h = h.mean((2, 3))
        return (1 - fade) * self.old(h) + fade * self.new(h)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1246)
    model = Growing()
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        if i in (80, 160):
            block = Residual(8)
            model.blocks.append(block)
            opt.add_param_group({"params": list(block.parameters()), "lr": 2e-3})
        x, y = img_batch(i, size=6)
        if i >= 80:
            x = F.interpolate(x, scale_factor=2.0)
        loss = F.cross_entropy(model(x, min(1.0, max(0.0, (i - 80) / 60))), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
