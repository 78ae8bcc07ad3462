"""Two networks teach each other (deep mutual learning), each with its own optimizer and schedule, trained in turns of two steps; one
is pulled to the mean of both every 50 steps (model soup)."""

from common import *

META = dict(
    id="h238",
    title="Two networks in turns, now and then set to their mean",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=["each rests two steps of four", "weights jump every 50 steps", "two step counters"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1238)
    model = nn.ModuleDict({"a": MLP(16, 32, 4, bn=True), "b": MLP(16, 32, 4, bn=True)})
    opts = {
        "a": adamw(model["a"].parameters(), 2e-3),
        "b": sgd(model["b"].parameters(), 0.05, momentum=0.9),
    }
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opts["b"], 30, 2)

    def step(i):
        name, other = ("a", "b") if i % 4 < 2 else ("b", "a")
        x, y = cls_batch(i, noise=1.0)
        out = model[name](x)
        with torch.no_grad():
            target = model[other](x).softmax(-1)
        loss = F.cross_entropy(out, y) + 0.3 * F.kl_div(
            out.log_softmax(-1), target, reduction="batchmean"
        )
        opts[name].zero_grad()
        loss.backward()
        opts[name].step()
        if name == "b":
            schedule.step()
        if i % 50 == 49:
            with torch.no_grad():
                for p, q in zip(model["a"].parameters(), model["b"].parameters()):
                    p.lerp_(q, 0.5)
        return loss.item()

    return Run(model, opts["a"], step, extra={"optimizers": list(opts.values())})
