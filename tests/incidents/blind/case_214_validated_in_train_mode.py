"""Validation runs under no_grad and in train mode: the running statistics learn the validation data, which lie elsewhere."""

from common import *

META = dict(
    id="214",
    title="Validation in train mode feeds BatchNorm's running statistics",
    upstream="princeton-vl/pytorch_stacked_hourglass#44; wolny/pytorch-3dunet#53",
    family="bn",
    steps=60,
    bug_step=9,
    world_size=1,
    signals=["num_batches_tracked grows faster than the steps", "statistics jump"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(214)
    model = ConvNet()
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 10 == 9:
            model.train(not healthy)
            with torch.no_grad():
                for k in range(8):
                    model(img_batch(10_000 + k)[0] * 1.5 - 3.0)
            model.train()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return int(run.model.bn1.num_batches_tracked) > META["steps"]
