"""The router's token counters are floating-point buffers, so the half-precision wrapper casts them with the rest: above
256 a bf16 count is rounded to even numbers, then to multiples of 4, and the sign of a bias update may flip."""

from common import *

META = dict(
    id="138",
    title="Token counters of the router in bf16",
    upstream="NVIDIA/Megatron-LM#7081",
    family="dtype",
    steps=40,
    bug_step=0,
    world_size=1,
    signals=["a counter is bf16, with whole numbers above 256"],
    loss_visible=False,
)
MICROBATCHES = 4


def build(healthy, rank=0, world_size=1):
    seed_all(138)
    model = TinyLM(d=32, layers=1, std=0.5, ffn=lambda: MoE(32, 32, 4))
    moe = moes(model)[0]
    if not healthy:
        moe.tokens_per_expert = moe.tokens_per_expert.bfloat16()
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        moe.tokens_per_expert.zero_()
        opt.zero_grad()
        total = 0.0
        for j in range(MICROBATCHES):
            x, y = lm_batch(i * MICROBATCHES + j, bs=33)
            loss = lm_loss(model, x, y) / MICROBATCHES
            loss.backward()
            total += loss.item()
        counts = moe.tokens_per_expert.double()
        run.extra.setdefault("wrong", []).append(float(counts.sum()) != MICROBATCHES * 33 * 16)
        moe.expert_bias.add_(1e-2 * torch.sign(counts.mean() - counts).float())
        opt.step()
        return total

    run = Run(model, opt, step)
    return run


def evidence(run):
    return sum(run.extra["wrong"]) > 5
