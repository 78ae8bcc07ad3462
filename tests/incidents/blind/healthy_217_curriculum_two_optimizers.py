"""Matrices by an orthogonalising optimizer, everything else by AdamW; the sequence length grows in three stages, the number of
microbatches with it."""

from common import *

META = dict(
    id="h217",
    title="Two optimizers, a curriculum of lengths and of accumulation",
    upstream="-",
    family="healthy",
    steps=240,
    bug_step=None,
    world_size=1,
    tempts=["two optimizers step one after the other", "gradient norms change with each stage"],
)


class Orthogonalised(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, momentum=0.95))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                buffer = s.setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = buffer / (buffer.norm() + 1e-7)
                for _ in range(5):
                    update = 1.5 * update - 0.5 * update @ update.T @ update
                p.add_(update, alpha=-group["lr"])


def build(healthy=True, rank=0, world_size=1):
    seed_all(1217)
    model = TinyLM(d=32, layers=2, ctx=16, norm="rms", std=0.1)
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    first = Orthogonalised(matrices, 0.02)
    second = adamw([p for p in model.parameters() if id(p) not in chosen], 3e-3)

    def step(i):
        stage = i // 80
        total = 0.0
        for k in range(1 + stage):
            x, y = lm_batch(3 * i + k, T=4 * 2**stage)
            loss = lm_loss(model, x, y) / (1 + stage)
            loss.backward()
            total += loss.item()
        for opt in (first, second):
            opt.step()
            opt.zero_grad()
        return total

    return Run(model, first, step, extra={"optimizers": [first, second]})
