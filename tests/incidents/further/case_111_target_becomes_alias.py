"""After the first hard update the code also assigns `target = online`: from then on the target IS the online network,
and bootstrapping chases itself.  Fix: copy the weights, keep the object."""

import copy

from common import *

META = dict(
    id="111",
    title="Target network becomes an alias of the online network at the first update",
    upstream="andri27-ts/Reinforcement-Learning#14; same effect Britefury/self-ensemble-visual-domain-adapt#6",
    family="ema",
    steps=80,
    bug_step=19,
    world_size=1,
    signals=["two modules share storage that did not before", "target moves in every step"],
    loss_visible=False,
)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.moving = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        self.fixed = copy.deepcopy(self.moving)


def build(healthy, rank=0, world_size=1):
    seed_all(111)
    model = Agent()
    opt = torch.optim.Adam(model.moving.parameters(), lr=1e-3)

    def step(i):
        g = gen(111, i)
        s, s2 = torch.randn(32, 8, generator=g), torch.randn(32, 8, generator=g)
        r = s[:, 0] * s[:, 1]
        with torch.no_grad():
            goal = r + 0.8 * model.fixed(s2).max(1).values
        loss = F.mse_loss(model.moving(s)[:, 0], goal)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 19:
            model.fixed.load_state_dict(model.moving.state_dict())
            if not healthy:
                model.fixed = model.moving
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return run.model.fixed is run.model.moving
