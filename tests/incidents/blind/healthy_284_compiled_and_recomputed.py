"""A compiled model whose blocks are computed again in the backward pass; evaluated now and then, saved by its original module, and
set back to the best weights at the end."""

from torch.utils.checkpoint import checkpoint

from common import *

META = dict(
    id="h284",
    title="Compiled, with activations computed again, saved by its original module",
    upstream="-",
    family="healthy",
    steps=120,
    bug_step=None,
    world_size=1,
    tempts=[
        "two names for each parameter",
        "a forward that runs twice",
        "dropout in one of them only, as it seems",
        "weights set back at the end",
    ],
)


class Recomputed(TinyLM):
    def hidden(self, x):
        h = self.tok_embeddings(x) + self.pos_embeddings(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = checkpoint(layer, h, use_reentrant=False) if self.training else layer(h)
        return self.norm(h)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1284)
    plain = Recomputed(d=32, layers=2, std=0.1, dropout=0.1, tie=True)
    for block in plain.layers:
        block.attention.forward = forward_without_notes(block.attention)
    model = torch.compile(plain, backend="aot_eager")
    opt = adamw(plain.parameters(), 2e-3)
    best = {"loss": math.inf}

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad(set_to_none=False)
        loss.backward()
        opt.step()
        if i % 30 == 29:
            model.eval()
            with torch.no_grad():
                now = lm_loss(model, *lm_batch(10_000)).item()
            model.train()
            torch.save(plain.state_dict(), tmp_path("weights.pt"))
            if now < best["loss"]:
                best.update(loss=now, state=clone_state(plain))
        if i == 110:
            plain.load_state_dict(best["state"], strict=False)
        return loss.item()

    return Run(model, opt, step)


def forward_without_notes(attention):
    """Without the attribute that the shared attention keeps its last scores in."""

    def forward(x):
        B, T, D = x.shape
        q, k, v = (
            w(x).view(B, T, attention.h, attention.dh).transpose(1, 2)
            for w in (attention.wq, attention.wk, attention.wv)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return attention.wo(attention.drop(y.transpose(1, 2).reshape(B, T, D)))

    return forward
