"""A lottery ticket: trained for 100 steps, pruned, and set back to the weights of step 20 with the mask held; twice."""

from common import *

META = dict(
    id="h250",
    title="Pruned, and rewound to the weights of step 20, twice",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights go back to those of an early step",
        "most elements become 0 and stay",
        "a new optimizer each time",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1250)
    model = MLP(16, 64, 4, depth=3)
    run = Run(model, adamw(model.parameters(), 2e-3), None)
    kept, masks = {}, {n: torch.ones_like(p) for n, p in model.named_parameters() if p.ndim > 1}

    def step(i):
        if i == 20:
            kept.update(clone_state(model))
        if i in (100, 200):
            with torch.no_grad():
                for n, p in model.named_parameters():
                    if n in masks:
                        alive = p[masks[n] > 0].abs()
                        masks[n] *= (p.abs() > alive.median()).float()
                    p.copy_(kept[n] * masks.get(n, 1.0))
            run.optimizer = adamw(model.parameters(), 2e-3)
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in masks:
                    p.mul_(masks[n])
        return loss.item()

    run.step = step
    return run
