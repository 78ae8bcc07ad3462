"""The weights of the chosen experts are divided by their sum; with one expert a token that is exactly 1, whatever the
router says, so the loss cannot reach the router: it is never trained."""

from common import *

META = dict(
    id="129",
    title="Top-1 routing weights normalised to 1: the router gets no gradient",
    upstream="jingyaogong/minimind#858 (fix #859); davidmrau/mixture-of-experts#27",
    family="router",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["gradient of the gate at rounding level, every step", "gate moves by noise alone"],
    loss_visible=False,
)


class NormalisedMoE(MoE):
    def __init__(self, healthy):
        super().__init__(32, 32, 4, k=1, score="softmax", bias=False)
        self.healthy = healthy

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        scores = self.gate(x).softmax(-1)
        weight, chosen = scores.topk(self.k, -1)
        if not self.healthy:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        out = torch.zeros_like(x)
        for e in range(self.E):
            rows = (chosen[:, 0] == e).nonzero()[:, 0]
            h = F.gelu(x[rows] @ self.w1[e]) @ self.w2[e]
            out = out.index_add(0, rows, h * weight[rows])
        return out.reshape(shape)


def build(healthy, rank=0, world_size=1):
    seed_all(129)
    model = TinyLM(layers=1, std=0.5, ffn=lambda: NormalisedMoE(healthy))
    opt = sgd(model.parameters(), 0.1, momentum=0.9)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        run.extra["gate"] = grad_norm([moes(model)[0].gate.weight])
        opt.step()
        return loss.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    return run.extra["gate"] < 1e-6
