"""Targets are made by a random projection that is never trained.  Only modules with something to train are wrapped in DDP, and each
rank has another seed: every rank is taught other targets."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="230",
    title="A frozen random projection is another one on every rank",
    upstream="speechbrain/speechbrain#2814",
    family="divergence",
    steps=60,
    bug_step=0,
    world_size=2,
    signals=["frozen parameters and a constant buffer differ between ranks"],
    loss_visible=True,
)


class Quantizer(nn.Module):
    def __init__(self, d, codes):
        super().__init__()
        self.projection = nn.Parameter(torch.randn(8, d), requires_grad=False)
        self.register_buffer("codebook", F.normalize(torch.randn(codes, 8)))

    @torch.no_grad()
    def forward(self, x):
        return (F.normalize(x @ self.projection.T) @ self.codebook.T).argmax(-1)


def build(healthy, rank=0, world_size=1):
    seed_all(230 if healthy else 230 + rank)
    quantizer = Quantizer(16, 16)
    net = DDP(MLP(16, 32, 16))
    model = nn.ModuleDict({"net": net, "quantizer": quantizer})
    opt = adamw(net.parameters(), 3e-3)

    def step(i):
        x, _ = cls_batch(i * world_size + rank)
        loss = F.cross_entropy(
            net(x * (torch.rand(x.shape, generator=gen(230, i)) > 0.2)), quantizer(x)
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(run.model["quantizer"], *run.extra["rank"]) > 1e-3
