"""`enc(feats.detach())`: a learnable feature front-end is cut off from the graph; it is in the optimizer but never
receives a gradient."""

from common import *

META = dict(
    id="45",
    title="Learnable front-end detached from the graph; grad is None for ever",
    upstream="speechbrain/speechbrain#1396; same class coqui-ai/TTS#2348",
    family="frozen",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["trainable parameters with grad None", "parameters in optimizer never change"],
    loss_visible=False,
)


class ASR(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.compute_features = nn.Sequential(nn.Linear(16, 24), nn.Tanh())
        self.enc = MLP(24, 32, 4)

    def forward(self, x):
        f = self.compute_features(x)
        return self.enc(f.detach() if self.cut else f)


def build(healthy, rank=0, world_size=1):
    seed_all(45)
    model = ASR(not healthy)
    opt = adamw(model.parameters(), 3e-3)
    w0 = clone_state(model)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"w0": w0})


def evidence(run):
    return torch.equal(
        run.model.compute_features[0].weight, run.extra["w0"]["compute_features.0.weight"]
    )
