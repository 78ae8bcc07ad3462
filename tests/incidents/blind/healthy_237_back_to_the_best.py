"""Saves every 5 steps, an evaluation every 10; when it got worse, the best state is loaded again in the running process, optimizer
and all, with half the learning rate.  The data go on."""

from common import *

META = dict(
    id="h237",
    title="Goes back to the best state again and again, with half the rate",
    upstream="-",
    family="healthy",
    steps=240,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights, moments and step counters go back within the process",
        "learning rate halves",
        "saves every 5 steps",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1237)
    model = ConvNet(4, 8)
    opt = adamw(model.parameters(), 2e-2)
    best = {"loss": math.inf}

    def step(i):
        if i and i % 5 == 0:
            torch.save(
                {"model": model.state_dict(), "optim": opt.state_dict()}, tmp_path("last.pt")
            )
        if i and i % 10 == 0:
            model.eval()
            with torch.no_grad():
                x, y = img_batch(7000 + i, bs=64)
                now = F.cross_entropy(model(x), y).item()
            model.train()
            if now < best["loss"]:
                best.update(loss=now, path=tmp_path("best.pt"))
                torch.save({"model": model.state_dict(), "optim": opt.state_dict()}, best["path"])
            else:
                blob = torch.load(best["path"])
                rate = opt.param_groups[0]["lr"]
                model.load_state_dict(blob["model"])
                opt.load_state_dict(blob["optim"])
                opt.param_groups[0]["lr"] = max(1e-3, rate / 2)
                best["loss"] *= 1.05
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
