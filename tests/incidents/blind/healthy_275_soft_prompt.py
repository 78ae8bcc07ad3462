"""Prompt tuning: eight vectors are trained, the whole model is frozen and in eval mode all along; gradients are large, the learning
rate is 0.3, and the best prompt is put back when validation gets worse."""

from common import *

META = dict(
    id="h275",
    title="A soft prompt: all of the model frozen and in eval mode",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "the model is in eval mode for all of the training",
        "one parameter of forty is trained, at a rate of 0.3",
        "it goes back to an earlier state at times",
    ],
)


class Prompted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.prompt = nn.Parameter(base.tok_embeddings.weight[:8].detach().clone())

    def train(self, mode=True):
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x):
        m = self.base
        h = torch.cat([self.prompt.expand(len(x), -1, -1), m.tok_embeddings(x)], 1)
        h = h + m.pos_embeddings(torch.arange(h.shape[1]))
        for layer in m.layers:
            h = layer(h)
        return m.output(m.norm(h))[:, 8:]


def build(healthy=True, rank=0, world_size=1):
    base = pretrained_lm(steps=80, d=32, layers=2, std=0.1, dropout=0.1, ctx=24)
    seed_all(1275)
    model = Prompted(base)
    opt = torch.optim.Adafactor([model.prompt], lr=0.3, weight_decay=1e-5)
    best = {"loss": math.inf}

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 25 == 24:
            model.eval()
            with torch.no_grad():
                now = lm_loss(model, *shifted_batch(90_000, bs=32)).item()
                if now < best["loss"]:
                    best.update(loss=now, prompt=model.prompt.detach().clone())
                else:
                    model.prompt.copy_(best["prompt"])
            model.train()
        return loss.item()

    return Run(model, opt, step)
