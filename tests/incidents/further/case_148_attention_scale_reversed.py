"""Attention scores are multiplied by sqrt(d) where they should be divided by it: the softmax saturates from the first step
on, each token attends to one other, and hardly a gradient reaches queries and keys."""

from common import *

META = dict(
    id="148",
    title="Attention scores scaled by sqrt(d) instead of 1/sqrt(d)",
    upstream="AI-Hypercomputer/maxtext#1370; missing scale: PAIR-code/tiny-transformers#71, delzac/cntkx#10",
    family="explosion",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=[
        "attention logits d times too large",
        "gradients of queries and keys far below the rest",
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(148)
    model = TinyLM(d=64, layers=2, std=0.3, scale=None if healthy else 32**0.5)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.model.layers[0].attention.last_logits.std()) > 8
