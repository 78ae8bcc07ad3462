"""Proximal policy optimisation: eight minibatch steps or fewer on each rollout, with observations normalised by counts that stop,
a learnt standard deviation, clipped values, and rounds that end early when the policy has gone too far."""

from common import *

META = dict(
    id="h263",
    title="Proximal policy optimisation, epochs over a rollout that end early",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "the same samples several times",
        "a loss around 0, of either sign",
        "statistics that stop moving in the middle",
        "gradients exactly 0 where all is clipped",
    ],
)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.zeros(2))
        for net, gain in ((self.actor, 0.01), (self.critic, 1.0)):
            nn.init.orthogonal_(net[0].weight, 2**0.5)
            nn.init.orthogonal_(net[2].weight, gain)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def see(self, s):
        n = len(s)
        d, total = s.mean(0) - self.mean, float(self.count) + n
        m2 = self.var * float(self.count) + s.var(0) * n + d**2 * float(self.count) * n / total
        self.mean.add_(d * n / total)
        self.var.copy_(m2 / total)
        self.count.add_(n)

    def forward(self, s):
        s = ((s - self.mean) / (self.var + 1e-8).sqrt()).clamp(-5, 5)
        dist = torch.distributions.Normal(self.actor(s), self.log_std.exp())
        return dist, self.critic(s).squeeze(-1)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1263)
    model = Policy()
    opt = torch.optim.Adam(model.parameters(), 3e-4, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: max(0.0, 1 - s / 400))
    state = {"left": [], "round": 0}

    @torch.no_grad()
    def roll():
        s = 3 + 2 * torch.randn(128, 6, generator=gen(1263, state["round"]))
        state["round"] += 1
        if state["round"] < 25:
            model.see(s)
        dist, value = model(s)
        a = dist.sample()
        reward = -(a - 0.2 * s[:, :2] + 0.1 * s[:, 2:4]).pow(2).sum(-1)
        adv = reward - value
        state["data"] = (s, a, dist.log_prob(a).sum(-1), adv, reward, value)
        state["left"] = [c for _ in range(4) for c in torch.randperm(128).chunk(2)]

    def step(i):
        if not state["left"]:
            roll()
        rows = state["left"].pop()
        s, a, old, adv, ret, value = (t[rows] for t in state["data"])
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        dist, v = model(s)
        logp = dist.log_prob(a).sum(-1)
        ratio = (logp - old).exp()
        gain = torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean()
        clipped = value + (v - value).clamp(-0.2, 0.2)
        fit = torch.max((v - ret).pow(2), (clipped - ret).pow(2)).mean()
        loss = -gain + 0.5 * fit - 0.01 * dist.entropy().sum(-1).mean()
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()
        schedule.step()
        if float((old - logp.detach()).mean()) > 0.02:
            state["left"] = []
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
