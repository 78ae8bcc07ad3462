"""The code of an autoencoder is rounded, and the straight-through part is itself put inside the rounding: its gradient is 0, and
only the decoder learns."""

from common import *

META = dict(
    id="220",
    title="A rounding lets no gradient through: the encoder never learns",
    upstream="Justin-Tan/generative-compression#27, #51",
    family="frozen",
    steps=120,
    bug_step=0,
    world_size=1,
    signals=["gradients of a whole part are exactly 0, not missing", "its parameters never move"],
    loss_visible=False,
)


class Codec(nn.Module):
    def __init__(self, through):
        super().__init__()
        self.through = through
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x):
        soft = 3 * torch.tanh(self.encoder(x))
        hard = soft.round()
        if self.through:
            code = (hard - soft).detach() + soft
        else:
            code = torch.round((hard - soft).detach() + soft)
        return self.decoder(code)


def build(healthy, rank=0, world_size=1):
    seed_all(220)
    model = Codec(through=healthy)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, _ = cls_batch(i, noise=0.3)
        loss = F.mse_loss(model(x), x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.model.encoder[0].weight.grad.abs().max()) == 0
