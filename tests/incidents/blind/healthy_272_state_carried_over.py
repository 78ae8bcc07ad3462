"""A recurrent model whose state is carried from batch to batch in buffers: set to 0 at the end of each sequence, and of another shape
for the last batch of an epoch, which is smaller."""

from common import *

META = dict(
    id="h272",
    title="Recurrent state carried over in buffers, smaller for the last batch",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "buffers assigned anew in every forward",
        "with another shape every 15 steps",
        "and set to 0 at times",
        "not in the state dict",
    ],
)


class Carrying(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.cell = nn.Embedding(32, 24), nn.LSTM(24, 32, batch_first=True)
        self.out = nn.Linear(32, 32)
        self.register_buffer("h", torch.zeros(1, 8, 32), persistent=False)
        self.register_buffer("c", torch.zeros(1, 8, 32), persistent=False)

    def reset(self, size):
        self.h, self.c = torch.zeros(1, size, 32), torch.zeros(1, size, 32)

    def forward(self, x):
        if self.h.shape[1] != len(x):
            self.reset(len(x))
        y, (h, c) = self.cell(self.emb(x), (self.h, self.c))
        self.h, self.c = h.detach(), c.detach()
        return self.out(y)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1272)
    model = Carrying()
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        last = i % 15 == 14
        if i % 5 == 0:
            model.reset(8)
        x, y = lm_batch(i, bs=3 if last else 8, T=12, vocab=32)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        opt.step()
        return loss.item()

    return Run(model, opt, step)
