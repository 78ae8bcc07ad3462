"""Two DDP ranks with find_unused_parameters: each rank drops layers at random, every fifth step both drop the same one, so that
nobody has a gradient for it; rank 0 evaluates alone."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="h208",
    title="Two DDP ranks with layers dropped at random",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=2,
    tempts=["gradients missing on one rank or both", "eval mode on one rank between steps"],
)


class Dropping(TinyLM):
    dropped = ()

    def hidden(self, x):
        h = self.tok_embeddings(x) + self.pos_embeddings(torch.arange(x.shape[1]))
        for k, layer in enumerate(self.layers):
            if k not in self.dropped:
                h = layer(h)
        return self.norm(h)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1208)
    net = Dropping(d=32, layers=3, std=0.1)
    model = DDP(net, find_unused_parameters=True)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        both = torch.randint(0, 3, (1,), generator=gen(1208, i)).item()
        own = torch.randint(0, 6, (1,), generator=gen(1209, i, rank)).item()
        net.dropped = (both,) if i % 5 == 4 else (own,)
        x, y = lm_batch(i * world_size + rank, bs=6 if rank else 8)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 19 and rank == 0:
            net.eval()
            net.dropped = ()
            with torch.no_grad():
                lm_loss(net, *lm_batch(100_000 + i))
            net.train()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})
