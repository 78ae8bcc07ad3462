"""A VQ autoencoder whose codebook follows by EMA; every 40 steps codes that were hardly used are set to encoder outputs,
with their sums."""

from common import *

META = dict(
    id="h211",
    title="Codebook by EMA, unused codes restarted every 40 steps",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=["rows that jump", "codes that rest for long", "buffers changed outside the forward"],
)


class Quantiser(nn.Module):
    def __init__(self, codes=32, d=8):
        super().__init__()
        self.register_buffer("embed", torch.randn(codes, d))
        self.register_buffer("embed_avg", self.embed.clone())
        self.register_buffer("cluster_size", torch.ones(codes))
        self.last = None

    def forward(self, z):
        onehot = F.one_hot(torch.cdist(z, self.embed).argmin(1), len(self.embed)).to(z.dtype)
        q = onehot @ self.embed
        with torch.no_grad():
            self.last = z.detach()
            self.cluster_size.lerp_(onehot.sum(0), 0.02)
            self.embed_avg.lerp_(onehot.t() @ z, 0.02)
            total = self.cluster_size.sum()
            smoothed = (self.cluster_size + 1e-5) / (total + len(self.embed) * 1e-5) * total
            self.embed.copy_(self.embed_avg / smoothed[:, None])
        return z + (q - z).detach(), F.mse_loss(z, q.detach())

    @torch.no_grad()
    def restart(self, generator):
        dead = (self.cluster_size < 0.2).nonzero()[:, 0]
        if len(dead):
            pick = torch.randint(0, len(self.last), (len(dead),), generator=generator)
            self.embed[dead] = self.last[pick]
            self.embed_avg[dead] = self.last[pick]
            self.cluster_size[dead] = 1.0


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = MLP(16, 32, 8), MLP(8, 32, 16)
        self.quantiser = Quantiser()

    def forward(self, x):
        z, commitment = self.quantiser(self.encoder(x))
        return F.mse_loss(self.decoder(z), x) + 0.25 * commitment


def build(healthy=True, rank=0, world_size=1):
    seed_all(1211)
    model = Autoencoder()
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        loss = model(cls_batch(i, bs=64, noise=0.3)[0])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 40 == 39:
            model.quantiser.restart(gen(1211, i))
        return loss.item()

    return Run(model, opt, step)
