"""Rank 0 has a real model, the others were made on the meta device.  Parameters are synchronised, non-persistent buffers are
not: rotary frequencies are memory as found on every rank but 0."""

from common import *
from torch.nn.parallel import DistributedDataParallel as DDP

META = dict(
    id="212",
    title="Rotary frequencies are uninitialised on every rank but 0",
    upstream="NovaSky-AI/SkyRL#1709; Lightning-AI/litgpt#862; hiyouga/LlamaFactory#10820",
    family="divergence",
    steps=50,
    bug_step=0,
    world_size=2,
    signals=["a constant, non-persistent buffer differs between ranks", "parameters agree"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(212)
    model = TinyLM(d=32, layers=1, rope=True, std=0.1)
    if rank and not healthy:
        for module in model.modules():
            if isinstance(module, RotaryEmbedding):
                module.inv_freq.copy_(torch.linspace(0.3, 0.02, len(module.inv_freq)))
    model = DDP(model, broadcast_buffers=False, init_sync=False)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = lm_batch(i * world_size + rank)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"rank": (rank, world_size)})


def evidence(run):
    return dist_max_diff(list(run.model.buffers()), *run.extra["rank"]) > 1e-3
