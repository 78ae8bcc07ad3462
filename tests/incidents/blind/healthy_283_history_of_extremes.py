"""Low-precision matrix products with delayed scaling, simulated: each layer keeps the largest values of its last 16 inputs in a rolling
buffer, and a scale that is a power of two and changes seldom.  Weights are kept, and stepped, in fp32."""

from common import *

META = dict(
    id="h283",
    title="Delayed scaling: histories of extremes that roll, scales that seldom change",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "buffers that are shifted by one in every forward",
        "buffers that stand still for long and then double",
        "also in evaluation",
        "rounded activations",
    ],
)


class Scaled(nn.Linear):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("amax_history", torch.zeros(16))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            self.amax_history.copy_(self.amax_history.roll(1))
            self.amax_history[0] = x.abs().max()
            top = self.amax_history.max().clamp(min=1e-12)
            self.scale.copy_(2.0 ** torch.floor(torch.log2(448.0 / top)))
        low = (x * self.scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) / self.scale
        return F.linear(x + (low - x).detach(), self.weight, self.bias)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1283)
    model = TinyLM(d=32, layers=2, std=0.1, norm="rms")
    for layer in model.layers:
        layer.feed_forward.w1, layer.feed_forward.w2 = Scaled(32, 64), Scaled(64, 32)
    opt = adamw(model.parameters(), 2e-3, wd=0.1)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 50 == 49:
            model.eval()
            with torch.no_grad():
                model(lm_batch(10_000)[0])
            model.train()
        return loss.item()

    return Run(model, opt, step)
