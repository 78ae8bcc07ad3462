"""The usual test of a new model: one batch, 800 steps, no regularisation, until the loss is next to nothing; evaluated
on the very same batch."""

from common import *

META = dict(
    id="h281",
    title="One batch for 800 steps, until nothing is left to learn",
    upstream="-",
    family="healthy",
    steps=800,
    bug_step=None,
    world_size=1,
    tempts=[
        "always the same batch",
        "a loss that comes to nothing",
        "gradients that vanish",
        "second moments that decay to nothing",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1281)
    model = ConvNet(c=6)
    model.drop.p = 0.0
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    data = torch.utils.data.TensorDataset(*img_batch(0, bs=8))
    loader = torch.utils.data.DataLoader(data, batch_size=8)

    def step(i):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        if i % 100 == 99:
            model.eval()
            with torch.no_grad():
                model(data.tensors[0])
            model.train()
        return loss.item()

    return Run(model, opt, step)
