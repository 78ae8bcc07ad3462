"""A recurrent model over frozen pre-trained embeddings; now and then a batch is rubbish and the loss and the gradient jump by
a factor of fifty; clipping holds, and the training recovers in a few steps."""

from common import *

META = dict(
    id="h216",
    title="Recurrent model over frozen embeddings, with bad batches now and then",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=["loss and gradient spikes", "frozen embedding", "gradients always clipped"],
)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.randn(64, 16), freeze=True)
        self.rnn = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 64)

    def forward(self, x, scale=1.0):
        return self.head(self.rnn(scale * self.embedding(x))[0])


def build(healthy=True, rank=0, world_size=1):
    seed_all(1216)
    model = Tagger()
    opt = adamw([p for p in model.parameters() if p.requires_grad], 5e-3)

    def step(i):
        x, y = lm_batch(i)
        bad = i % 67 == 66
        logits = model(x, 50.0 if bad else 1.0)
        loss = F.cross_entropy((50.0 if bad else 1.0) * logits.flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()
        return loss.item()

    return Run(model, opt, step)
