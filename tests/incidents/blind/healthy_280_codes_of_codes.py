"""Residual codebooks by moving averages: entries are taken from the first batch, later codebooks are left out in half of the steps,
and none is ever restarted."""

from common import *

META = dict(
    id="h280",
    title="Residual codebooks with dropout of quantisers, begun from the first batch",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "buffers that are 0 until the first batch",
        "codebooks that rest in half of the steps",
        "later codebooks of tiny entries",
    ],
)


class Codes(nn.Module):
    def __init__(self, entries=16, dims=8):
        super().__init__()
        self.register_buffer("entries", torch.zeros(entries, dims))
        self.register_buffer("counts", torch.zeros(entries))
        self.register_buffer("sums", torch.zeros(entries, dims))
        self.register_buffer("begun", torch.tensor(False))

    @torch.no_grad()
    def forward(self, r):
        if not bool(self.begun):
            self.entries.copy_(r[torch.randperm(len(r))[: len(self.entries)]])
            self.counts.fill_(1.0)
            self.sums.copy_(self.entries)
            self.begun.fill_(True)
        chosen = torch.cdist(r, self.entries).argmin(1)
        hot = F.one_hot(chosen, len(self.entries)).to(r)
        self.counts.lerp_(hot.sum(0), 0.05)
        self.sums.lerp_(hot.t() @ r, 0.05)
        self.entries.copy_(self.sums / (self.counts[:, None] + 1e-5))
        return self.entries[chosen]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.books = nn.ModuleList(Codes() for _ in range(4))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x, used):
        z = self.encoder(x)
        r, q = z.detach(), torch.zeros_like(z)
        for book in self.books[:used]:
            part = book(r)
            r, q = r - part, q + part
        return self.decoder(z + (q - z).detach()), F.mse_loss(z, q)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1280)
    model = Residual()
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, _ = cls_batch(i, bs=64, noise=0.6)
        used = 4 if i % 2 == 0 else 1 + int(torch.randint(0, 4, (), generator=gen(1280, i)))
        out, commit = model(x, used)
        loss = F.mse_loss(out, x) + 0.25 * commit
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
