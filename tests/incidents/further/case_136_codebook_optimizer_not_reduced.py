"""A learnable codebook is trained by its own optimizer inside forward(), which DDP does not know of: its gradients are
those of the rank's own batch, and the codebooks part.  Fix: all-reduce before its step."""

import torch.distributed as dist
from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="136",
    title="In-place codebook optimizer steps with gradients of one rank",
    upstream="lucidrains/vector-quantize-pytorch#222",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["one parameter differs between ranks, all others are equal"],
    loss_visible=False,
)


class Autoencoder(nn.Module):
    _ddp_params_and_buffers_to_ignore = ["codebook.weight"]

    def __init__(self, reduce):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 8), nn.Linear(8, 16)
        self.codebook = nn.Embedding(16, 8)
        self.codebook_optimizer = sgd(self.codebook.parameters(), 0.5)
        self.reduce = reduce

    def forward(self, x):
        z = self.encoder(x)
        embed = self.codebook.weight
        chosen = torch.cdist(z.detach(), embed.detach()).argmin(1)
        embed.grad = torch.autograd.grad(F.mse_loss(embed[chosen], z.detach()), embed)[0]
        if self.reduce:
            dist.all_reduce(embed.grad)
            embed.grad /= dist.get_world_size()
        self.codebook_optimizer.step()
        q = embed.detach()[chosen]
        return F.mse_loss(self.decoder(z + (q - z).detach()), x) + 0.25 * F.mse_loss(z, q)


def build(healthy, rank=0, world_size=1):
    seed_all(136)
    model = DDP(Autoencoder(reduce=healthy))
    net = model.module
    opt = adamw([*net.encoder.parameters(), *net.decoder.parameters()], 3e-3)

    def step(i):
        x, _ = cls_batch(i * world_size + rank)
        loss = model(x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    extra = {"rank": (rank, world_size), "optimizers": [opt, net.codebook_optimizer]}
    return Run(model, opt, step, extra=extra)


def evidence(run):
    return dist_max_diff([run.model.module.codebook.weight], *run.extra["rank"]) > 1e-4
