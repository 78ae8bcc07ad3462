"""A VQ codebook lives in buffers and is updated by EMA from the rank's own batch; DDP runs with broadcast_buffers=False
and nothing all-reduces the statistics, so each rank has its own codebook (and only rank 0's is saved)."""

import torch.distributed as dist
from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="113",
    title="EMA codebook buffers updated from each rank's own batch",
    upstream="espnet/espnet#6284; lucidrains/vector-quantize-pytorch#17; ZhikangNiu/encodec-pytorch#15",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["a buffer differs between ranks, more every step; parameters do not"],
    loss_visible=False,
)


class Quantizer(nn.Module):
    def __init__(self, codes=16, d=8):
        super().__init__()
        self.register_buffer("embed", torch.randn(codes, d))
        self.register_buffer("embed_avg", self.embed.clone())
        self.register_buffer("cluster_size", torch.ones(codes))

    def forward(self, z, reduce):
        onehot = F.one_hot(torch.cdist(z, self.embed).argmin(1), len(self.embed)).to(z.dtype)
        q = onehot @ self.embed
        with torch.no_grad():
            counts, sums = onehot.sum(0), onehot.t() @ z
            for statistic in (counts, sums) if reduce else ():
                dist.all_reduce(statistic)
            self.cluster_size.lerp_(counts, 0.05)
            self.embed_avg.lerp_(sums, 0.05)
            self.embed.copy_(self.embed_avg / self.cluster_size.clamp(min=1e-2)[:, None])
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class Autoencoder(nn.Module):
    def __init__(self, reduce):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 8), nn.Linear(8, 16)
        self.quantizer, self.reduce = Quantizer(), reduce

    def forward(self, x):
        z, commitment = self.quantizer(self.encoder(x), self.reduce)
        return F.mse_loss(self.decoder(z), x) + 0.25 * commitment


def build(healthy, rank=0, world_size=1):
    seed_all(113)
    model = DDP(Autoencoder(reduce=healthy), broadcast_buffers=False)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, _ = cls_batch(i * world_size + rank)
        loss = model(x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(list(run.model.buffers()), *run.extra["rank"]) > 1e-3
