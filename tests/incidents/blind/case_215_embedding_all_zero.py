"""The padding row is to be zeroed, but there is no padding index: weight[None] = 0 zeroes the whole embedding."""

from common import *

META = dict(
    id="215",
    title="Zeroing the padding row at index None zeroes the whole embedding",
    upstream="facebookresearch/fairseq#4076",
    family="init",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["an embedding is all zero at the first step", "every token looks the same at first"],
    loss_visible=False,
)


def embedding(vocab, d, padding_idx, guarded):
    m = nn.Embedding(vocab, d, padding_idx=padding_idx)
    nn.init.normal_(m.weight, mean=0, std=d**-0.5)
    if not guarded or padding_idx is not None:
        nn.init.constant_(m.weight[padding_idx], 0)
    return m


def build(healthy, rank=0, world_size=1):
    seed_all(215)
    model = TinyLM(d=32, layers=2, std=0.1)
    model.tok_embeddings = embedding(64, 32, None, guarded=healthy)
    opt = adamw(model.parameters(), 2e-3)
    start = model.tok_embeddings.weight.detach().clone()

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    return float(run.extra["start"].norm()) == 0
