"""Adafactor: no learning rate is given (None), steps are relative to the size of the weights, second moments are kept as rows and
columns, no first moment.  Learnt gates begin at exactly 0, and a 0-dim temperature is trained beside them."""

from common import *

META = dict(
    id="h229",
    title="Adafactor without a learning rate, gates that begin at 0",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "lr is None",
        "state whose shapes are not the parameter's",
        "parameters that are 0 at first",
        "0-dim parameters",
    ],
)


class Adafactor(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, dict(lr=None, scale_parameter=True, relative_step=True))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                s, g2 = self.state[p], p.grad.pow(2) + 1e-30
                s["step"] = s.get("step", 0) + 1
                beta = 1 - s["step"] ** -0.8
                if p.ndim == 2:
                    row = s.setdefault("exp_avg_sq_row", torch.zeros(p.shape[0]))
                    col = s.setdefault("exp_avg_sq_col", torch.zeros(p.shape[1]))
                    row.mul_(beta).add_(g2.mean(1), alpha=1 - beta)
                    col.mul_(beta).add_(g2.mean(0), alpha=1 - beta)
                    u = p.grad * (row / row.mean()).rsqrt()[:, None] * col.rsqrt()[None]
                else:
                    v = s.setdefault("exp_avg_sq", torch.zeros_like(p))
                    v.mul_(beta).add_(g2, alpha=1 - beta)
                    u = p.grad * v.rsqrt()
                u = u / max(1.0, float(u.pow(2).mean().sqrt()))
                rate = min(1e-2, s["step"] ** -0.5) * max(1e-3, float(p.pow(2).mean().sqrt()))
                p.sub_(u, alpha=rate)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TinyLM(d=32, layers=2, std=0.1)
        self.gates = nn.Parameter(torch.zeros(2))
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        h = self.net.tok_embeddings(x) + self.net.pos_embeddings(torch.arange(x.shape[1]))
        for gate, layer in zip(self.gates, self.net.layers):
            h = h + gate * (layer(h) - h)
        return self.net.output(self.net.norm(h)) * self.temperature


def build(healthy=True, rank=0, world_size=1):
    seed_all(1229)
    model = Gated()
    opt = Adafactor(model.parameters())

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
