"""
Trainers as their users write them, with no line of ours: `unedited.py TRAINER sound|faulty`.

`faulty`: the front of the model is cut off by a `detach()` and is never trained; under DDP, `no_sync()` is never left, so
that ranks train by themselves.
"""

import contextlib
import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

trainer_name, mode = sys.argv[1:3]
is_faulty = mode == "faulty"
STEPS = 40
torch.manual_seed(0)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.front = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 64)

    def forward(self, tokens):
        hidden = self.front(self.embedding(tokens))
        if is_faulty and trainer_name != "ddp":
            hidden = hidden.detach()
        return self.head(self.norm(hidden))


tokens = torch.randint(64, (STEPS * 32,))
dataset = TensorDataset(tokens, (tokens * 5 + 1) % 64)


def ranks():
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    return DataLoader(dataset, batch_size=16, sampler=DistributedSampler(dataset))


def loop(model, optimizer, loader, around=contextlib.nullcontext):
    for x, y in loader:
        optimizer.zero_grad()
        with around():
            F.cross_entropy(model(x), y).backward()
        optimizer.step()


def plain():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loop(model, optimizer, DataLoader(dataset, batch_size=32, shuffle=True))
    torch.save({"model": model.state_dict()}, "last.pt")


def ddp():
    loader = ranks()
    model = nn.parallel.DistributedDataParallel(Net())
    around = model.no_sync if is_faulty else contextlib.nullcontext
    loop(model, torch.optim.AdamW(model.parameters(), lr=1e-2), loader, around)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def fsdp2():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    loader = ranks()
    model, mesh = Net(), init_device_mesh("cpu", (2,))
    for part in (model.head, model):
        # gloo has no average
        fully_shard(part, mesh=mesh).set_force_sum_reduction_for_comms(True)
    loop(model, torch.optim.AdamW(model.parameters(), lr=1e-2), loader)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def accelerate():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(dataset, batch_size=32, shuffle=True)
    )
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.save_state("accelerated")


def lightning():
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    trainer = Trainer(max_steps=STEPS, accelerator="cpu", enable_progress_bar=False)
    trainer.fit(Module(), DataLoader(dataset, batch_size=32, shuffle=True))


globals()[trainer_name]()
