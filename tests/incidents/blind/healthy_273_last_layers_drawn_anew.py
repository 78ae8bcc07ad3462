"""Q-learning against the primacy bias: the last layers, and their moments, are drawn anew every 100 steps; a hard copy to the target
network every 25; four steps on each new sample, from a replay memory in buffers that fills up."""

import copy

from common import *

META = dict(
    id="h273",
    title="Q-learning whose last layers are drawn anew every 100 steps",
    upstream="-",
    family="healthy",
    steps=420,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights and moments thrown away again and again",
        "a target network that jumps every 25 steps",
        "the loss jumps at each reset",
        "buffers of which more and more is filled",
    ],
)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.online.append(nn.Linear(32, 3))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.register_buffer("memory", torch.zeros(64, 10), persistent=False)
        self.register_buffer("cursor", torch.tensor(0), persistent=False)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1273)
    model = Agent()
    opt = torch.optim.Adam(model.online.parameters(), 1e-3)
    state = {"s": torch.randn(4)}

    @torch.no_grad()
    def act():
        for _ in range(8):
            s = state["s"]
            greedy = int(model.online(s).argmax())
            a = greedy if torch.rand(()) > 0.2 else int(torch.randint(0, 3, ()))
            n = 0.8 * s + 0.3 * torch.randn(4) + 0.2 * (a - 1)
            r = -n[:2].abs().sum()
            row = torch.cat([s, n, r[None], torch.tensor([float(a)])])
            model.memory[int(model.cursor) % 64] = row
            model.cursor.add_(1)
            state["s"] = n

    def step(i):
        if i % 4 == 0:
            act()
        if i and i % 100 == 0:
            for layer in (model.online[2], model.online[4]):
                layer.reset_parameters()
                for p in layer.parameters():
                    opt.state.pop(p, None)
        have = min(64, int(model.cursor))
        rows = model.memory[torch.randint(0, have, (32,))]
        s, n, r, a = rows[:, :4], rows[:, 4:8], rows[:, 8], rows[:, 9].long()
        with torch.no_grad():
            best = model.online(n).argmax(1, keepdim=True)
            goal = r + 0.9 * model.target(n).gather(1, best).squeeze(1)
        loss = F.smooth_l1_loss(model.online(s).gather(1, a[:, None]).squeeze(1), goal)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 25 == 24:
            model.target.load_state_dict(model.online.state_dict())
        return loss.item()

    return Run(model, opt, step)
