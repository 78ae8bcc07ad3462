"""The periodic hard update reads `target.load_state_dict(target.state_dict())`: the target network stays at its first
weights for ever while Q-values are bootstrapped from it."""

import copy

from common import *

META = dict(
    id="110",
    title="Target network is loaded from itself and never follows the online network",
    upstream="thesouther/MARL#8; higgsfield-ai/higgsfield#14; shakedzy/tic_tac_toe#1; AgileRL/AgileRL#464",
    family="ema",
    steps=100,
    bug_step=9,
    earliest=0,
    world_size=1,
    signals=["target equals its start while the online network has moved far"],
    loss_visible=False,
)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = MLP(8, 32, 4)
        self.target = copy.deepcopy(self.online).requires_grad_(False)


def transitions(i):
    g = gen(110, i)
    s, s2 = torch.randn(64, 8, generator=g), torch.randn(64, 8, generator=g)
    a = torch.randint(0, 4, (64,), generator=g)
    r = torch.tanh(s[torch.arange(64), a]) + 0.1 * torch.randn(64, generator=g)
    return s, a, r, s2


def build(healthy, rank=0, world_size=1):
    seed_all(110)
    model = Agent()
    opt = adamw(model.online.parameters(), 2e-3)
    start = clone_state(model.target)

    def step(i):
        s, a, r, s2 = transitions(i)
        q = model.online(s).gather(1, a[:, None])[:, 0]
        with torch.no_grad():
            goal = r + 0.9 * model.target(s2).max(1).values
        loss = F.smooth_l1_loss(q, goal)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 10 == 9:
            source = model.online if healthy else model.target
            model.target.load_state_dict(source.state_dict())
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    now, start = clone_state(run.model.target), run.extra["start"]
    return all(torch.equal(now[name], start[name]) for name in now)
