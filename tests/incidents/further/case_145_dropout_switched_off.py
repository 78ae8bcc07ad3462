"""An attention module sets its dropout to 0 in eval mode by overwriting the attribute: after the first evaluation there is
no dropout any more, whatever mode the model is in.  Fix: use a local value."""

from common import *

META = dict(
    id="145",
    title="Dropout probability overwritten with 0 at the first evaluation",
    upstream="NVIDIA/Megatron-LM#411",
    family="modes",
    steps=60,
    bug_step=19,
    world_size=1,
    signals=["a module's p changes from 0.2 to 0 after an evaluation, in train mode"],
    loss_visible=False,
)


class SelfDropout(nn.Dropout):
    healthy = True

    def forward(self, x):
        if self.healthy:
            return super().forward(x)
        if not self.training:
            self.p = 0.0
        return F.dropout(x, self.p, self.training)


def build(healthy, rank=0, world_size=1):
    seed_all(145)
    model = MLP(16, 64, 4)
    drop = SelfDropout(0.2)
    drop.healthy = healthy
    model.body.append(drop)
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        model.train()
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 19:
            model.eval()
            with torch.no_grad():
                model(cls_batch(1000 + i)[0])
            model.train()
        return loss.item()

    return Run(model, opt, step, extra={"drop": drop})


def evidence(run):
    return run.extra["drop"].p == 0.0
