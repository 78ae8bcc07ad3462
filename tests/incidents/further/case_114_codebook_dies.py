"""Dead codes are replaced in `embed` but their running sums (`embed_avg`, `cluster_size`) are not reset: the same forward
pass computes the code from the stale sums again, and the codebook dies out."""

from common import *

META = dict(
    id="114",
    title="Dead-code revival without a reset of the running sums: most codes stay dead",
    upstream="espnet/espnet#6284; see also LatentActionPretraining/LAPA#17, EdoardoBotta/RQ-VAE-Recommender#65",
    family="codebook",
    steps=100,
    bug_step=40,
    earliest=0,
    world_size=1,
    signals=["most rows of cluster_size decay to 0", "rows of the codebook are never chosen"],
    loss_visible=True,
)


class Quantizer(nn.Module):
    def __init__(self, healthy, codes=32, d=8):
        super().__init__()
        self.healthy = healthy
        self.register_buffer("embed", 4.0 * torch.randn(codes, d) + 6.0)
        self.register_buffer("embed_avg", self.embed.clone())
        self.register_buffer("cluster_size", torch.ones(codes))

    def forward(self, z):
        onehot = F.one_hot(torch.cdist(z, self.embed).argmin(1), len(self.embed)).to(z.dtype)
        q = onehot @ self.embed
        if self.training:
            with torch.no_grad():
                dead = self.cluster_size < 0.2
                fresh = z[torch.arange(len(dead)) % len(z)]
                self.embed[dead] = fresh[dead]
                if self.healthy:
                    self.embed_avg[dead], self.cluster_size[dead] = fresh[dead], 1.0
                self.cluster_size.lerp_(onehot.sum(0), 0.1)
                self.embed_avg.lerp_(onehot.t() @ z, 0.1)
                self.embed.copy_(self.embed_avg / self.cluster_size.clamp(min=1e-5)[:, None])
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class Autoencoder(nn.Module):
    def __init__(self, healthy):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 8), nn.Linear(8, 16)
        self.quantizer = Quantizer(healthy)

    def forward(self, x):
        z, commitment = self.quantizer(self.encoder(x))
        return F.mse_loss(self.decoder(z), x) + 0.25 * commitment


def build(healthy, rank=0, world_size=1):
    seed_all(114)
    model = Autoencoder(healthy)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x = cls_batch(i, bs=64, classes=12, noise=0.5)[0]
        loss = model(x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float((run.model.quantizer.cluster_size < 1e-2).float().mean()) > 0.5
