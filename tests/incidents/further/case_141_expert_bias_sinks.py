"""Counts of tokens are compared with an expected share in 0..1: every expert that was chosen at all is "overloaded", so
all biases sink together by the same amount each step and balance nothing.  Fix: divide the counts by their sum."""

from common import *

META = dict(
    id="141",
    title="Expert bias update compares counts with a frequency: all biases sink for ever",
    upstream="gfyddha/FlyLoRA#1; the drift itself: pytorch/torchtitan#1506",
    family="router",
    steps=100,
    bug_step=5,
    earliest=0,
    world_size=1,
    signals=["all entries of the bias move the same way by the same amount, every step"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(141)
    model = TinyLM(d=32, layers=1, std=0.5, ffn=lambda: MoE(32, 32, 4))
    opt = adamw(model.parameters(), 3e-3)
    moe = moes(model)[0]

    def step(i):
        x, y = lm_batch(i, bs=16)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        count = moe.tokens_per_expert / (moe.tokens_per_expert.sum() if healthy else 1)
        moe.expert_bias.add_(0.02 * torch.sign(1 / moe.E - count))
        moe.tokens_per_expert.zero_()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(moes(run.model)[0].expert_bias.max()) < -1.0
