"""An iterable dataset that does not ask which worker it is in: each of the two workers gives the whole stream, and every batch is
trained on twice."""

from common import *
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

META = dict(
    id="227",
    title="Each worker of the loader gives every sample: all batches come twice",
    upstream="huggingface/datasets#3423; pytorch/pytorch#30599; huggingface/finetrainers#394; espnet/espnet#2081",
    family="same_data",
    steps=60,
    bug_step=1,
    world_size=1,
    signals=["the same batch in two steps, again and again"],
    loss_visible=False,
)


class Stream(IterableDataset):
    def __init__(self, splits):
        super().__init__()
        self.splits = splits

    def __iter__(self):
        info = get_worker_info()
        first, by = (info.id, info.num_workers) if self.splits and info else (0, 1)
        for i in range(first, 100, by):
            yield cls_batch(i, noise=1.0)


def build(healthy, rank=0, world_size=1):
    seed_all(227)
    model = MLP(16, 32, 4, dropout=0.1)
    opt = adamw(model.parameters(), 2e-3)
    loader = DataLoader(Stream(splits=healthy), batch_size=None, num_workers=2)
    batches, seen = iter(loader), []

    def step(i):
        x, y = next(batches)
        seen.append(x.double().sum().item())
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"seen": seen})


def evidence(run):
    seen = run.extra["seen"]
    return len(set(seen)) <= len(seen) // 2 + 1
