"""Meta-learning: an inner loop of three gradient steps on functional fast weights, the outer loss through them; learnt inner
rates for each tensor; new tasks in every step."""

from common import *
from torch.func import functional_call

META = dict(
    id="h212",
    title="Meta-learning with functional fast weights and learnt inner rates",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=["second-order gradients", "noisy loss", "scalar parameters that hardly move"],
)


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )
        self.rates = nn.ParameterList(
            nn.Parameter(torch.tensor(0.05)) for _ in self.net.parameters()
        )


def build(healthy=True, rank=0, world_size=1):
    seed_all(1212)
    model = Learner()
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        losses = []
        for task in range(3):
            g = gen(1212, i, task)
            amplitude, phase = 1 + torch.rand(1, generator=g), 3 * torch.rand(1, generator=g)
            x = torch.rand(20, 1, generator=g) * 6 - 3
            y = amplitude * torch.sin(x + phase)
            fast = dict(model.net.named_parameters())
            for _ in range(3):
                inner = F.mse_loss(functional_call(model.net, fast, (x[:10],)), y[:10])
                slopes = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                fast = {
                    k: v - rate * s for (k, v), s, rate in zip(fast.items(), slopes, model.rates)
                }
            losses.append(F.mse_loss(functional_call(model.net, fast, (x[10:],)), y[10:]))
        loss = torch.stack(losses).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
