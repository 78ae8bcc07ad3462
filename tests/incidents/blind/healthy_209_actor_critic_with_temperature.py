"""Soft actor-critic on a toy: the critic alone is trained for the first 60 steps, then actor and temperature every second step;
running observation statistics, a target that follows by 0.01, rewards that change their scale."""

import copy

from common import *

META = dict(
    id="h209",
    title="Actor-critic with a learnt temperature, delayed actor and running observation statistics",
    upstream="-",
    family="healthy",
    steps=500,
    bug_step=None,
    world_size=1,
    fall=1e9,
    tempts=["actor rests for 60 steps, then every other step", "loss grows with the rewards"],
)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic = MLP(6, 32, 2), MLP(7, 32, 1)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.tensor(1e-4))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def normalise(self, x):
        with torch.no_grad():
            total = self.seen + len(x)
            delta = x.mean(0) - self.mean
            self.mean += delta * len(x) / total
            m2 = self.var * self.seen + x.var(0, unbiased=False) * len(x)
            self.var.copy_((m2 + delta**2 * self.seen * len(x) / total) / total)
            self.seen.copy_(total)
        return (x - self.mean) / (self.var + 1e-4).sqrt()


def build(healthy=True, rank=0, world_size=1):
    seed_all(1209)
    agent = Agent()
    critic_opt = adamw(agent.critic.parameters(), 3e-3)
    actor_opt = adamw(agent.actor.parameters(), 1e-3)
    alpha_opt = torch.optim.Adam([agent.log_alpha], lr=1e-2)

    def act(s, g):
        mean, log_std = agent.actor(s).chunk(2, 1)
        log_std = log_std.clamp(-5, 2)
        noise = torch.randn(mean.shape, generator=g)
        action = torch.tanh(mean + log_std.exp() * noise)
        log_prob = -0.5 * noise**2 - log_std - torch.log(1 - action**2 + 1e-6)
        return action, log_prob

    def step(i):
        g = gen(1209, i % 200)  # a replay buffer that has been filled
        raw = torch.randn(32, 6, generator=g) * 2 + 1
        s = agent.normalise(raw)
        a = torch.rand(32, 1, generator=g) * 2 - 1
        scale = 1.0 if i < 250 else 4.0
        r = scale * (torch.cos(raw[:, :1]) * a - 0.1 * a**2)
        nxt = agent.normalise(raw + 0.1 * a)
        with torch.no_grad():
            a2, lp2 = act(nxt, g)
            y = r + 0.9 * (agent.target(torch.cat([nxt, a2], 1)) - agent.log_alpha.exp() * lp2)
        loss = F.mse_loss(agent.critic(torch.cat([s, a], 1)), y)
        critic_opt.zero_grad()
        loss.backward()
        critic_opt.step()
        if i >= 60 and i % 2 == 0:
            a1, lp1 = act(s, g)
            agent.critic.requires_grad_(False)
            q = agent.critic(torch.cat([s, a1], 1))
            actor_loss = (agent.log_alpha.exp().detach() * lp1 - q).mean()
            actor_opt.zero_grad()
            actor_loss.backward()
            actor_opt.step()
            agent.critic.requires_grad_(True)
            alpha_loss = -(agent.log_alpha * (lp1.detach() - 1.0)).mean()
            alpha_opt.zero_grad()
            alpha_loss.backward()
            alpha_opt.step()
        with torch.no_grad():
            for t, p in zip(agent.target.parameters(), agent.critic.parameters()):
                t.lerp_(p, 0.01)
        return loss.item()

    return Run(agent, critic_opt, step, extra={"optimizers": [critic_opt, actor_opt, alpha_opt]})
