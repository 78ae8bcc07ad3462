"""Complex, 0-dim and empty parameters, a weight quantised to int8 with its scales in buffers, a bool mask, a shared module, hooks on
gradients, an aliased module name, RAdam."""

from common import *

META = dict(
    id="h236",
    title="Odd tensors: complex, 0-dim, empty, int8, shared, hooked",
    upstream="-",
    family="healthy",
    steps=200,
    bug_step=None,
    world_size=1,
    tempts=[
        "tensors that few readings apply to",
        "buffers that never change by design",
        "two names for one parameter",
    ],
)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(9, 32, dtype=torch.cfloat) * 0.1 + 1)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.spare = nn.Parameter(torch.empty(0, 32))
        self.embed = nn.Embedding(64, 32)
        self.shared = nn.Linear(32, 32)
        self.again = self.shared
        w = torch.randn(32, 32) / 32**0.5
        scale = w.abs().amax(1, keepdim=True) / 127
        self.register_buffer("quantised", (w / scale).round().to(torch.int8))
        self.register_buffer("scales", scale)
        self.register_buffer("mask", torch.rand(32, generator=gen(1236)) > 0.2)
        self.down, self.up = nn.Linear(32, 4, bias=False), nn.Linear(4, 32, bias=False)
        nn.init.zeros_(self.up.weight)
        self.head = nn.Linear(32, 64)
        self.head.weight.register_hook(lambda g: g * 0.5)
        self.gain.register_hook(lambda g: g.clamp(-0.1, 0.1))

    def forward(self, x):
        h = self.embed(x)
        h = h + self.gain * torch.fft.irfft(
            torch.fft.rfft(h, dim=1) * self.filter, n=h.shape[1], dim=1
        )
        h = h + F.gelu(self.shared(h))
        h = h + F.gelu(self.again(h)) * self.mask
        h = h + F.linear(h, self.quantised.float() * self.scales) + self.up(self.down(h))
        return self.head(
            F.layer_norm(
                torch.cat([h, self.spare.expand(0, 32)[None].expand(h.shape[0], 0, 32)], 1), (32,)
            )
        )


def build(healthy=True, rank=0, world_size=1):
    seed_all(1236)
    model = Odd()
    opt = torch.optim.RAdam(model.parameters(), 2e-3, foreach=False)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
