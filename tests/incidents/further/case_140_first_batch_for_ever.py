"""`next(iter(loader))` in the loop makes a new iterator in every step: without shuffling it is the first batch, always.
The training loss falls to nothing and nothing is learnt."""

from common import *
from torch.utils.data import DataLoader, TensorDataset

META = dict(
    id="140",
    title="next(iter(loader)) in every step: always the first batch",
    upstream="ZhaoJ9014/face.evoLVe#39; wandb/examples#444",
    family="same_data",
    steps=80,
    bug_step=1,
    world_size=1,
    signals=["the same batch in every step", "the loss falls without the noise of batches"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(140)
    x, y = cls_batch(0, bs=2560, noise=1.5)
    loader = DataLoader(TensorDataset(x, y), batch_size=32)
    model = MLP(16, 32, 4)
    opt = adamw(model.parameters(), 3e-3)
    seen, batches = set(), iter(loader)

    def step(i):
        x, y = next(batches if healthy else iter(loader))
        seen.add(float(x.sum()))
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"seen": seen})


def evidence(run):
    return len(run.extra["seen"]) == 1
