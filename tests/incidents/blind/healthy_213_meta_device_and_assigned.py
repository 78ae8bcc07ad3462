"""The model is made on the meta device and filled by load_state_dict(assign=True), tied again afterwards, its rotary
frequencies computed anew; blocks are checkpointed, embeddings frozen."""

from common import *
from torch.utils.checkpoint import checkpoint

META = dict(
    id="h213",
    title="Made on the meta device, filled by assignment, tied again, checkpointed",
    upstream="-",
    family="healthy",
    steps=150,
    bug_step=None,
    world_size=1,
    tempts=["a loss far below chance from the start", "frozen embedding shared with the head"],
)


class Checkpointed(TinyLM):
    def hidden(self, x):
        h = self.tok_embeddings(x)
        for layer in self.layers:
            h = checkpoint(layer, h, use_reentrant=False)
        return self.norm(h)


def build(healthy=True, rank=0, world_size=1):
    trained = pretrained_lm(steps=60, d=32, layers=2, rope=True, tie=True, std=0.1)
    seed_all(1213)
    with torch.device("meta"):
        model = Checkpointed(d=32, layers=2, rope=True, tie=True, std=0.1)
    model.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()}, assign=True)
    model.output.weight = model.tok_embeddings.weight
    model.tok_embeddings.weight.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.inv_freq = module.compute()
    opt = adamw([p for p in model.parameters() if p.requires_grad], 1e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
