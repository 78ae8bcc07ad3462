"""Tokens are added during the training: the embedding is replaced by a larger one, the tied head keeps the old tensor,
and the optimizer holds the old tensor too.  Fix: tie again and tell the optimizer."""

from common import *

META = dict(
    id="135",
    title="Resized embedding: the tie to the head and the optimizer's hold are both lost",
    upstream="huggingface/transformers#1730, #43206",
    family="tied",
    steps=50,
    bug_step=15,
    world_size=1,
    signals=[
        "a tied parameter is replaced under one of its names",
        "no optimizer holds the new one",
    ],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(135)
    model = TinyLM(d=32, layers=1, tie=True, std=0.1)
    opt = adamw(model.parameters(), 5e-3)

    def resize(rows):
        old = model.tok_embeddings.weight
        new = nn.Parameter(torch.cat([old.detach(), 0.1 * torch.randn(rows - len(old), 32)]))
        model.tok_embeddings.weight = new
        if healthy:
            model.output.weight = new
            for group in opt.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]
            opt.state.pop(old)

    def step(i):
        if i == 15:
            resize(72)
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    embedding = run.model.tok_embeddings.weight
    return run.model.output.weight is not embedding and id(embedding) not in held
