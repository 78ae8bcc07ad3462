"""Off-policy reinforcement learning: a small replay buffer, so that batches repeat; a target network by soft updates of
0.005; a loss that follows its own moving target and has no trend."""

import copy

from common import *

META = dict(
    id="h106",
    title="Q-learning with replay and soft target updates",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=1,
    tempts=["repeated batches", "a frozen copy that lags far behind", "loss without a trend"],
)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = MLP(8, 32, 4)
        self.target = copy.deepcopy(self.online).requires_grad_(False)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1106)
    model = Agent()
    opt = adamw(model.online.parameters(), 1e-3)

    def step(i):
        g = gen(1106, i % 7)
        s, s2 = torch.randn(32, 8, generator=g), torch.randn(32, 8, generator=g)
        a = torch.randint(0, 4, (32,), generator=g)
        r = torch.randn(32, generator=gen(1107, i)) + s[:, 0]
        with torch.no_grad():
            best = model.online(s2).argmax(1, keepdim=True)
            goal = r + 0.95 * model.target(s2).gather(1, best)[:, 0]
        loss = F.smooth_l1_loss(model.online(s).gather(1, a[:, None])[:, 0], goal)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.online.parameters(), 0.5)
        opt.step()
        with torch.no_grad():
            for t, p in zip(model.target.parameters(), model.online.parameters()):
                t.lerp_(p, 0.005)
        return loss.item()

    return Run(model, opt, step)
