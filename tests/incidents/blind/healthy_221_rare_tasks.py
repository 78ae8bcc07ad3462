"""Five tasks on one trunk, drawn unevenly: a head of the rarest gets a gradient in one step of forty, and in between has none
(zero_grad sets to None) or an old momentum."""

from common import *

META = dict(
    id="h221",
    title="Multi-task training, the rarest head is used once in forty steps",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=["parameters without a gradient for forty steps", "moments that rest"],
)

SHARES = (0.6, 0.2, 0.1, 0.075, 0.025)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1221)
    model = nn.ModuleDict(
        {"trunk": MLP(16, 32, 32), "heads": nn.ModuleList(nn.Linear(32, 4) for _ in SHARES)}
    )
    opt = adamw(model.parameters(), 2e-3, wd=0.01)

    def step(i):
        task = int(torch.multinomial(torch.tensor(SHARES), 1, generator=gen(1221, i)))
        x, y = cls_batch(i, seed=task, noise=1.0)
        loss = F.cross_entropy(model["heads"][task](F.relu(model["trunk"](x))), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
