"""Two DDP ranks, bf16 autocast, GroupNorm, five micro-batches in steps of two, so that the last step of each epoch has one; the
auxiliary head is unused in every third micro-batch; rank-local dropout."""

import contextlib

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="h230",
    title="Two DDP ranks, accumulation with a remainder, bf16 autocast, a head used now and then",
    upstream="-",
    family="healthy",
    steps=90,
    bug_step=None,
    world_size=2,
    tempts=[
        "gradients that part between ranks within a step",
        "gradient norms that change with the remainder",
    ],
)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = ConvNet(4, 8, norm=lambda c: nn.GroupNorm(2, c))
        self.auxiliary = nn.Linear(16, 1)

    def forward(self, x, with_auxiliary):
        h = self.net.features(x)
        return self.net.fc(self.net.drop(h)), self.auxiliary(h) if with_auxiliary else None


def build(healthy=True, rank=0, world_size=1):
    seed_all(1230)
    model = DDP(TwoHeads(), find_unused_parameters=True)
    torch.manual_seed(1230 + rank)
    opt = torch.optim.NAdam(model.parameters(), 2e-3, foreach=False)
    seen = [0]

    def step(i):
        parts = 1 if i % 3 == 2 else 2
        opt.zero_grad()
        total = 0.0
        for k in range(parts):
            n = seen[0] = seen[0] + 1
            x, y = img_batch(n * world_size + rank)
            last = k == parts - 1
            with contextlib.nullcontext() if last else model.no_sync():
                with torch.autocast("cpu", torch.bfloat16):
                    logits, value = model(x, n % 3 != 0)
                    loss = F.cross_entropy(logits.float(), y)
                    if value is not None:
                        loss = loss + 0.1 * F.mse_loss(value.float()[:, 0], x.mean((1, 2, 3)))
                (loss / parts).backward()
            total += loss.item() / parts
        opt.step()
        return total

    return Run(model, opt, step, extra={"rank": (rank, world_size)})
