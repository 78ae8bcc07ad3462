"""Weights are sent to the sampler every 20 steps.  The conversion turns gains around 0 into gains around 1 by adding 1 in place, to
the very tensor that is trained: each export makes all gains one larger."""

from common import *

META = dict(
    id="237",
    title="Each export adds 1 to the trained gains of the norms, in place",
    upstream="NVIDIA-NeMo/Megatron-Bridge#1929 (fix #1930)",
    family="overwritten",
    steps=120,
    bug_step=20,
    earliest=19,
    world_size=1,
    signals=["gains change outside the optimizer's step, by the same amount each"],
    loss_visible=True,
)


class CentredNorm(nn.Module):
    """Gains are kept around 0 and applied as 1 + gain."""

    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def build(healthy, rank=0, world_size=1):
    seed_all(237)
    model = TinyLM(d=32, layers=2, std=0.1)
    for layer in model.layers:
        layer.attention_norm, layer.ffn_norm = CentredNorm(32), CentredNorm(32)
    model.norm = CentredNorm(32)
    opt = adamw(model.parameters(), 3e-3)

    def export():
        sent = {}
        for name, p in model.named_parameters():
            t = p.data.clone() if healthy else p.data
            if "norm" in name:
                t += 1
            sent[name] = t.to(torch.bfloat16)
        return sent

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 19:
            run.extra["sampler"] = export()
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return float(run.model.norm.weight.detach().mean()) > 3
