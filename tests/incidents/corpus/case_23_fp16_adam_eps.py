"""Adam on fp16 parameters: eps=1e-8 is below the smallest fp16 subnormal and becomes 0, so elements whose gradient is
exactly zero get 0/0 = NaN.  With reserved vocabulary rows that never occur in a batch the NaNs sit in the embedding
table while the loss stays finite - until such a token appears.  Fix: eps=1e-4."""

from common import *

META = dict(
    id="23",
    title="fp16 Adam eps underflow: unused embedding rows become NaN, loss stays finite",
    upstream="afiaka87/glide-finetune#5/#6; google-deepmind/optax#1754 (unused embedding row)",
    family="nonfinite",
    steps=40,
    bug_step=0,
    world_size=1,
    signals=["non-finite count > 0 in a parameter"],
    loss_visible=False,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 16).half()  # ids 16..19 reserved
        self.mlp = MLP(16, 32, 16)

    def forward(self, x):
        return self.mlp(self.emb(x).float())


def build(healthy, rank=0, world_size=1):
    seed_all(23)
    model = Net()
    opt = torch.optim.Adam(
        model.parameters(), lr=3e-3, eps=1e-4 if healthy else 1e-8, foreach=False
    )

    def step(i):
        x, y = lm_batch(i, bs=16, T=24, vocab=16)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
        opt.zero_grad()
        (loss * 32).backward()  # static loss scale (Adam is scale invariant)
        opt.step()
        return loss.item() / x.numel()

    return Run(model, opt, step)


def evidence(run):
    return bool(torch.isnan(run.model.emb.weight).any())
