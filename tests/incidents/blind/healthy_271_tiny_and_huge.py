"""A physics-informed network in double precision: inputs of 1e-6, outputs of 1e4, a loss that begins above 1e7 and falls by orders;
fixed Fourier features, sine activations, weights of the loss by hand."""

from common import *

META = dict(
    id="h271",
    title="Double precision, a loss from 1e7 down by orders, tiny and huge scales",
    upstream="-",
    family="healthy",
    steps=500,
    bug_step=None,
    world_size=1,
    tempts=[
        "losses of 1e7 at first",
        "gradients fall by many orders of magnitude",
        "weights of 1e4 beside weights of 1e-2",
        "the same points in every step",
    ],
)


class Solution(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("freq", 1e6 * torch.randn(1, 16, generator=gen(1271)).double())
        self.inp, self.out = nn.Linear(32, 32).double(), nn.Linear(32, 1).double()
        self.scale = nn.Parameter(torch.tensor(1e4, dtype=torch.float64))

    def forward(self, x):
        a = x @ self.freq
        h = torch.sin(3 * self.inp(torch.cat([a.sin(), a.cos()], -1)))
        return self.scale * self.out(h)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1271)
    model = Solution()
    opt = torch.optim.Adam(
        [
            {"params": [model.scale], "lr": 50.0},
            {"params": [p for n, p in model.named_parameters() if n != "scale"], "lr": 3e-3},
        ]
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.995)
    x = torch.linspace(0, 1e-6, 48, dtype=torch.float64)[:, None]
    target = 1e4 * torch.sin(2e6 * x)

    def step(i):
        loss = F.mse_loss(model(x), target)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
