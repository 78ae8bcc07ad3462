"""Weights are put away between steps, as by offloading: after each step every parameter's data are another tensor, and buffers too; the
average is swapped in for evaluation by exchanging data, and out again."""

import copy

from common import *

META = dict(
    id="h251",
    title="Data of every parameter moved after each step, averages swapped by their data",
    upstream="-",
    family="healthy",
    steps=200,
    bug_step=None,
    world_size=1,
    tempts=[
        "another address after each step",
        "the same objects with other data",
        "weights and average change places",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1251)
    net = ConvNet(4, 8)
    average = copy.deepcopy(net).requires_grad_(False)
    model = nn.ModuleDict({"net": net, "average": average})
    opt = adamw(net.parameters(), 2e-3)

    def swap():
        for p, a in zip(net.parameters(), average.parameters()):
            p.data, a.data = a.data, p.data

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for p, a in zip(net.parameters(), average.parameters()):
                a.lerp_(p, 0.02)
            for b, a in zip(net.buffers(), average.buffers()):
                a.copy_(b)
        if i % 15 == 14:
            swap()
            net.eval()
            with torch.no_grad():
                net(img_batch(8000 + i)[0])
            torch.save(net.state_dict(), tmp_path("average.pt"))
            net.train()
            swap()
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.data = tensor.data.clone()
        return loss.item()

    return Run(model, opt, step)
