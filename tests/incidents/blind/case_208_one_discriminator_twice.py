"""The optimizer of the discriminators is made of the first one's parameters, twice; the second one is never trained, and the
generator is judged by random weights."""

from common import *

META = dict(
    id="208",
    title="One of two discriminators is in no optimizer",
    upstream="line/open-universe#5; same class zhaoyuzhi/deepfillv2#3",
    family="coverage",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=["parameters with gradients in no group", "two optimizers"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(208)
    model = nn.ModuleDict(
        {"generator": MLP(8, 32, 16), "mrd": MLP(16, 32, 1), "mpd": MLP(16, 32, 1)}
    )
    g_opt = adamw(model["generator"].parameters(), 2e-3, betas=(0.5, 0.9))
    critics = list(model["mrd"].parameters())
    critics += list(model["mpd"].parameters()) if healthy else []
    d_opt = adamw(critics, 2e-3, betas=(0.5, 0.9))
    start = clone_state(model["mpd"])

    def step(i):
        real, _ = cls_batch(i)
        noise = torch.randn(32, 8, generator=gen(208, i))
        fake = model["generator"](noise)
        d_loss = sum(
            F.softplus(model[name](fake.detach())).mean() + F.softplus(-model[name](real)).mean()
            for name in ("mrd", "mpd")
        )
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        g_loss = sum(F.softplus(-model[name](fake)).mean() for name in ("mrd", "mpd"))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        return d_loss.item()

    return Run(model, g_opt, step, extra={"optimizers": [g_opt, d_opt], "start": start})


def evidence(run):
    return torch.equal(run.model["mpd"].head.weight, run.extra["start"]["head.weight"])
