"""Forward-forward: each layer has a loss of its own and an optimizer of its own, which steps within the forward pass; nothing flows
back between layers.  The readout is trained for the last third only."""

from common import *

META = dict(
    id="h267",
    title="Layers with losses of their own, stepped within the forward pass",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "four optimizers, each for one layer",
        "one of them rests for 200 steps",
        "no gradient between layers",
        "the forward changes weights",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1267)
    model = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.Linear(20 if k == 0 else 48, 48) for k in range(3)),
            "readout": nn.Linear(96, 4),
        }
    )
    opts = [torch.optim.Adam(layer.parameters(), 5e-3) for layer in model["layers"]]
    opts.append(torch.optim.Adam(model["readout"].parameters(), 1e-2))

    def through(layer, h):
        h = h / (h.norm(dim=1, keepdim=True) + 1e-4)
        return F.relu(layer(h))

    def step(i):
        x, y = cls_batch(i, bs=64)
        wrong = (y + torch.randint(1, 4, y.shape, generator=gen(1267, i))) % 4
        good = torch.cat([F.one_hot(y, 4).float(), x], 1)
        bad = torch.cat([F.one_hot(wrong, 4).float(), x], 1)
        total = 0.0
        for layer, opt in zip(model["layers"], opts):
            a, b = through(layer, good), through(layer, bad)
            loss = F.softplus(torch.cat([2 - a.pow(2).sum(1), b.pow(2).sum(1) - 2])).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                good, bad = through(layer, good), through(layer, bad)
            total += loss.item()
        if i >= 200:
            h, kept = torch.cat([torch.full((64, 4), 0.25), x], 1), []
            with torch.no_grad():
                for layer in model["layers"]:
                    h = through(layer, h)
                    kept.append(h)
            loss = F.cross_entropy(model["readout"](torch.cat(kept[1:], 1)), y)
            opts[-1].zero_grad()
            loss.backward()
            opts[-1].step()
        return total

    return Run(model, opts[0], step, extra={"optimizers": opts})
