"""BatchNorm with momentum None: statistics are means of all batches since they were last reset, which is every 60 steps, and are made
again from 20 batches before each evaluation."""

from common import *

META = dict(
    id="h264",
    title="BatchNorm with momentum None, reset and made again now and then",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "statistics that hardly move after many batches",
        "counters that go back to 0",
        "statistics that jump at evaluations",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1264)
    model = ConvNet(norm=lambda c: nn.BatchNorm2d(c, momentum=None))
    opt = sgd(model.parameters(), 0.05, momentum=0.9)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 60 == 59:
            for m in norms:
                m.reset_running_stats()
            with torch.no_grad():
                for k in range(20):
                    model(img_batch(20_000 + k)[0])
                model.eval()
                model(img_batch(30_000)[0])
            model.train()
        return loss.item()

    return Run(model, opt, step)
