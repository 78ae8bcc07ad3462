"""Population-based training: three networks in turns, each with its rate; every 60 steps the worst is given weights, moments and rate of
the best, the rate changed by a fifth."""

import copy

from common import *

META = dict(
    id="h255",
    title="Population-based training: the worst takes over the best's state",
    upstream="-",
    family="healthy",
    steps=360,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights and moments replaced in the middle",
        "two networks equal for a moment",
        "learning rates jump",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1255)
    model = nn.ModuleList(MLP(16, 32, 4, bn=True) for _ in range(3))
    opts = [adamw(m.parameters(), lr) for m, lr in zip(model, (1e-4, 1e-3, 1e-2))]
    score = [4.0, 4.0, 4.0]

    def step(i):
        k = i % 3
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model[k](x), y)
        opts[k].zero_grad()
        loss.backward()
        opts[k].step()
        score[k] = 0.8 * score[k] + 0.2 * loss.item()
        if i % 60 == 59:
            best, worst = score.index(min(score)), score.index(max(score))
            model[worst].load_state_dict(model[best].state_dict())
            opts[worst].load_state_dict(copy.deepcopy(opts[best].state_dict()))
            opts[worst].param_groups[0]["lr"] *= 0.8 if i % 120 == 59 else 1.2
            score[worst] = score[best]
        return loss.item()

    return Run(model, opts[0], step, extra={"optimizers": opts})
