"""Two kinds of mixture: in the first layer experts choose their tokens, in the second tokens choose, are dropped above a capacity, and
balancing biases move at a pace that comes down to 0."""

from common import *

META = dict(
    id="h282",
    title="Experts that choose, capacity that drops tokens, biases that slow down to a stop",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "tokens that no expert takes",
        "a router without a bias of its own",
        "biases that move no more at the end",
        "loads above the capacity",
    ],
)


class Choosing(nn.Module):
    def __init__(self, d=32, experts=4):
        super().__init__()
        self.gate = nn.Linear(d, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(d, d) for _ in range(experts))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        p = self.gate(flat).softmax(-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            w, rows = p[:, e].topk(len(flat) // len(self.experts))
            out = out.index_add(0, rows, expert(flat[rows]) * w[:, None])
        return out.view_as(x)


class Bounded(MoE):
    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        s = self.gate(x).float().sigmoid()
        idx = (s + self.expert_bias).topk(self.k, -1).indices
        w = s.gather(1, idx)
        room = int(1.1 * len(x) * self.k / self.E)
        out = torch.zeros_like(x)
        for e in range(self.E):
            rows, slot = (idx == e).nonzero(as_tuple=True)
            if self.training:
                self.tokens_per_expert[e] += len(rows)
            rows, slot = rows[:room], slot[:room]
            if len(rows):
                h = F.gelu(x[rows] @ self.w1[e]) @ self.w2[e]
                out = out.index_add(0, rows, h * w[rows, slot, None])
        return out.view(shape)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1282)
    model = TinyLM(d=32, layers=2, std=0.1)
    model.layers[0].feed_forward = Choosing()
    model.layers[1].feed_forward = moe = Bounded(k=2)
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            c = moe.tokens_per_expert
            moe.expert_bias.add_((c.mean() - c).sign(), alpha=1e-2 * max(0.0, 1 - i / 300))
            c.zero_()
        return loss.item()

    return Run(model, opt, step)
