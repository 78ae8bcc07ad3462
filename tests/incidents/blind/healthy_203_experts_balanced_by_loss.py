"""A mixture of experts balanced by an auxiliary loss: two of eight experts for each token, noise on the router while training;
loads sway, and a rare expert gets few tokens in some batches."""

from common import *

META = dict(
    id="h203",
    title="Mixture of experts, top 2 of 8, balanced by an auxiliary loss with router noise",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=["uneven loads", "an expert without tokens in a batch", "counters that are reset"],
)


class NoisyMoE(MoE):
    def __init__(self):
        super().__init__(d=32, hidden=16, experts=8, k=2, score="softmax", bias=False)

    def forward(self, x):
        self.tokens_per_expert.zero_()
        if self.training:
            x = x * (1 + 0.02 * torch.randn_like(x))
        return super().forward(x)

    def balance(self):
        share = F.one_hot(self.last_idx, self.E).float().mean((0, 1))
        return self.E * (share * self.last_scores.mean(0)).sum()


def build(healthy=True, rank=0, world_size=1):
    seed_all(1203)
    model = TinyLM(d=32, layers=2, std=0.1, ffn=NoisyMoE)
    opt = adamw(model.parameters(), 3e-3, wd=0.01)

    def step(i):
        x, y = lm_batch(i, bs=4)
        loss = lm_loss(model, x, y)
        total = loss + 0.01 * sum(moe.balance() for moe in moes(model))
        opt.zero_grad()
        total.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
